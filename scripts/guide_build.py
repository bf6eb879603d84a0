"""Assemble educational_guide.html from its readable parts in docs/guide.

The page is a template (docs/guide/page.html) whose lines `{{pattern}}` become the files that match,
in order of name, and whose `{{data:...}}` become data: the source of microgpt.py, the names, and
what Python's own run gave. `--retrain` repeats that run (minutes) and rewrites docs/guide/data.
Read: assemble -> part, term -> data -> retrain -> main.
"""

import base64
import gzip
import html
import importlib.util
import json
import random
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from nanochat.cli import parse, print_json, run

ROOT = Path(__file__).parent.parent
PARTS = ROOT / "docs" / "guide"
GUIDE = ROOT / "educational_guide.html"
PYTHON_RUN = PARTS / "data" / "python_run.json"
PACKED_NAMES = PARTS / "data" / "names.gz.base64"
SHOWN_NAMES = 200


@dataclass(frozen=True)
class Settings:
    """Where the page goes."""

    out: Path = GUIDE
    """The file to write."""
    retrain: bool = False
    """First run microgpt.py's training again and store what it gave (minutes)."""
    json: bool = False
    """End with one line of JSON."""


TERM = re.compile(r"\[\[(\w+)(?:\|([^\]]+))?\]\]([.,:;?!)]*)")  # [[key|word]] and what stops


def load_microgpt() -> ModuleType:
    """microgpt.py as a module; it stands at the root, in no package."""
    spec = importlib.util.spec_from_file_location("microgpt", ROOT / "microgpt.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wrap(text: str, width: int = 96) -> str:
    """Short lines for long base64: the page stays readable in an editor."""
    return "\n".join(text[i : i + width] for i in range(0, len(text), width))


def shuffled_names() -> list[str]:
    """The names in the order microgpt.py learns them."""
    microgpt = load_microgpt()
    names: list[str] = microgpt.read_lines(microgpt.NAMES)
    random.Random(microgpt.SEED).shuffle(names)
    return names


def data(name: str) -> str:
    """What stands for `{{data:name}}`. None of it can close the tag that holds it."""
    if name == "source":
        return html.escape((ROOT / "microgpt.py").read_text(encoding="utf-8"), quote=False)
    if name == "python_run":
        return PYTHON_RUN.read_text(encoding="utf-8").strip()
    if name == "packed_names":
        return PACKED_NAMES.read_text(encoding="ascii").strip()
    assert name == "first_names", name
    names = shuffled_names()
    return json.dumps({"count": len(names), "first": names[:SHOWN_NAMES]})


def part(match: re.Match[str]) -> str:
    """What stands for one `{{...}}` of the page."""
    pattern = match.group(1)
    if pattern.startswith("data:"):
        return data(pattern.removeprefix("data:"))
    files = sorted(PARTS.glob(pattern))
    assert files, f"page.html asks for {pattern}, and no file matches"
    text = "\n".join(file.read_text(encoding="utf-8").strip() for file in files)
    return TERM.sub(term, text) if "html" in pattern else text


def assemble() -> str:
    """The whole page as text; the same parts always give the same page."""
    template = (PARTS / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{([^{}\s]+)\}\}", part, template)


def term(match: re.Match[str]) -> str:
    """`[[logit|scores]]` in a section: the word "scores", explained by the entry "logit".

    A full stop or comma after it stays on its line: browsers may break a line after any button.
    """
    key, word, stop = match.group(1), match.group(2) or match.group(1), match.group(3)
    button = f'<button type="button" class="term" data-term="{key}">{word}</button>'
    return f'<span class="together">{button}{stop}</span>' if stop else button


def retrain() -> None:
    """Run preset b in Python and keep its losses, samples and final weights, bit for bit."""
    microgpt = load_microgpt()
    preset, names = microgpt.PRESETS["b"], microgpt.read_lines(microgpt.NAMES)
    rng = random.Random(microgpt.SEED)
    rng.shuffle(names)
    tokens = microgpt.Tokens(names)
    weights = microgpt.make_weights(preset, tokens.bos + 1, rng)
    losses = list(microgpt.train(names, tokens, weights, preset, preset.steps))
    numbers = [p.data for p in microgpt.every(weights)]
    record = {
        "fingerprint": microgpt.fingerprint(weights),
        "samples": [microgpt.sample(tokens, weights, preset, rng) for _ in range(20)],
        "losses": losses,
        "weights": base64.b64encode(struct.pack(f"<{len(numbers)}d", *numbers)).decode("ascii"),
    }
    PYTHON_RUN.write_text(json.dumps(record, indent=0) + "\n", encoding="utf-8")
    packed = gzip.compress(microgpt.NAMES.read_bytes(), mtime=0)
    PACKED_NAMES.write_text(wrap(base64.b64encode(packed).decode("ascii")) + "\n", "ascii")


def main(argv: Sequence[str] | None = None) -> None:
    settings = parse(Settings, argv, "nanochat guide-build", __doc__)
    if settings.retrain:
        retrain()
    page = assemble()
    settings.out.write_text(page, encoding="utf-8")
    size = len(page.encode("utf-8"))
    print(f"{settings.out}: {size / 1000:.0f} kB")
    if settings.json:
        print_json({"path": str(settings.out), "bytes": size})


if __name__ == "__main__":
    run(main)
