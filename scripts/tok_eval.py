"""Compare how well the tokenizer compresses seven kinds of text, as a table and a chart."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.atomic import write_atomically
from nanochat.cli import parse, print_json, run
from nanochat.compression import Comparison, compare, sample_texts
from nanochat.paths import tokenizer_dir
from nanochat.picture import bar_chart_svg
from nanochat.report import record
from nanochat.tokenizer import Tokenizer


@dataclass(frozen=True)
class Settings:
    json: bool = False
    """Print the table as JSON on the last line."""


def main(argv: Sequence[str] | None = None) -> int | None:
    settings = parse(Settings, argv, "nanochat tok-eval", __doc__)
    tokenizer = Tokenizer.load(tokenizer_dir())
    texts = sample_texts()
    table = compare(tokenizer, texts)
    chart = tokenizer_dir() / "compression.svg"
    title = f"Bytes per token, vocabulary of {tokenizer.vocab_size:,}"
    write_atomically(chart, bar_chart_svg(title, table, "kind of text", "bytes per token"))
    facts = {"vocab_size": tokenizer.vocab_size, "bytes_per_token": table, "chart": str(chart)}
    record("tokenizer_eval", facts)
    show(table)
    if "TinyWorld" not in table:
        print("(without TinyWorld, which is not made yet: `nanochat tinyworld-make`)")
    print(f"chart: {chart}")
    if settings.json:
        print_json(facts)
    return None


def show(table: Comparison) -> None:
    """Bytes per token, one row for each kind of text."""
    names = list(next(iter(table.values())))
    print(f"{'bytes per token':<16}" + "".join(f"{name:>25}" for name in names))
    for kind, row in table.items():
        print(f"{kind:<16}" + "".join(f"{row[name]:>25.2f}" for name in names))


if __name__ == "__main__":
    run(main)
