"""Score a text for signs of prompt injection, or measure the signals on the labelled examples.

`nanochat guardrails` prints precision and recall: not a security boundary.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from nanochat.cli import parse, print_json, run
from nanochat.serve.guardrails import SUSPICIOUS, measure, signals_in


@dataclass(frozen=True)
class GuardrailSettings:
    """What to look at."""

    text: str | None = None
    """A text to score; none measures all labelled examples."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(argv: Sequence[str] | None = None) -> None:
    settings = parse(GuardrailSettings, argv, "nanochat guardrails", __doc__)
    if settings.text is not None:
        signals = signals_in(settings.text)
        score = sum(signals.values())
        record = {"score": score, "suspicious": score >= SUSPICIOUS, "signals": signals}
        print(", ".join(f"{name} {weight}" for name, weight in signals.items()) or "no signal")
    else:
        found = measure()
        record = asdict(found) | {"note": "not a security boundary"}
        print(f"{found.examples} labelled examples, read by the same people who wrote the rules")
        print(f"precision {found.precision:.2f}, recall {found.recall:.2f}")
        print("not a security boundary: it notes attempts, it does not stop them")
    if settings.json:
        print_json(record)


if __name__ == "__main__":
    run(main)
