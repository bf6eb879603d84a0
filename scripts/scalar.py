"""Train a bigram or a mini-GPT one number at a time: scalar train|sample|ablate|bench.

`nanochat scalar train` learns to invent names in seconds; `nanochat scalar sample` draws some.
What each command does lives in nanochat/scalar; here flags are read and results printed.
Read: COMMANDS -> main -> one function for each command.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nanochat.cli import parse, print_json, run
from nanochat.errors import UserError
from nanochat.paths import ROOT, base_dir, checkpoints_dir, report_dir
from nanochat.scalar.ablation import base_of, effects, run_study
from nanochat.scalar.ablation_report import markdown, write_study
from nanochat.scalar.bench import bench, table
from nanochat.scalar.errors import ScalarError
from nanochat.scalar.report import card, write_report
from nanochat.scalar.sampling import Sampler
from nanochat.scalar.settings import (
    AblateSettings,
    BenchSettings,
    SampleSettings,
    TrainSettings,
)
from nanochat.scalar.training import train


def library_folder() -> Path:
    """Where the C replay is compiled to, once."""
    return base_dir() / "scalar"


def show_line() -> Callable[[str], None]:
    """On a terminal one line that stays in place; elsewhere one line in a hundred steps."""
    terminal, count = sys.stderr.isatty(), 0

    def show(line: str) -> None:
        nonlocal count
        count += 1
        if terminal:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        elif not line.startswith("step") or count % 100 == 0:
            print(line, file=sys.stderr, flush=True)

    return show


def run_train(argv: Sequence[str]) -> dict[str, Any] | None:
    """Train, report, save."""
    s = parse(TrainSettings, argv, "nanochat scalar train", "Train a model; save it; report.")
    folder = s.out or checkpoints_dir("scalar", s.tag)
    record = train(s, folder, library_folder(), show_line())
    write_report(folder, record)
    print(f"{chr(10) if sys.stderr.isatty() else ''}{card(record)}- saved in {folder}")
    return {n: v for n, v in record.items() if n != "settings"} if s.json else None


def run_sample(argv: Sequence[str]) -> dict[str, Any] | None:
    """Draw text from a saved run."""
    s = parse(SampleSettings, argv, "nanochat scalar sample", "Draw text from a trained model.")
    sampler = Sampler(s, checkpoints_dir("scalar", s.tag), library_folder())
    texts = []
    for _ in range(s.count):
        texts.append(sampler.draw())
        print(texts[-1], flush=True)
    return {"samples": texts} if s.json else None


def run_ablate(argv: Sequence[str]) -> dict[str, Any] | None:
    """Run the study and print what matters."""
    s = parse(AblateSettings, argv, "nanochat scalar ablate", "Vary settings; find what matters.")
    folder = s.out or report_dir() / "scalar" / s.tag
    axes, rows, timings = run_study(s, folder, library_folder(), show_line())
    found = effects(axes, rows)
    write_study(folder, base_of(s), axes, rows, timings, found)
    print(f"{markdown(axes, rows, found)}\nsaved in {folder}")
    return {"cells": rows, "effects": [asdict(effect) for effect in found]} if s.json else None


def page_one() -> Any:
    """microgpt.py, which is no part of any package."""
    path = ROOT / "microgpt.py"
    spec = importlib.util.spec_from_file_location("microgpt", path)
    if spec is None or spec.loader is None or not path.exists():
        raise UserError(f"{path} is missing: run nanochat scalar bench in a clone")
    module = importlib.util.module_from_spec(spec)
    sys.modules["microgpt"] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


def run_bench(argv: Sequence[str]) -> dict[str, Any] | None:
    """Measure the engines side by side."""
    s = parse(BenchSettings, argv, "nanochat scalar bench", "Our engines beside microgpt.py.")
    record = bench(s, page_one(), library_folder(), show_line())
    print(f"{chr(10) if sys.stderr.isatty() else ''}{table(record)}")
    return record if s.json else None


COMMANDS = {"train": run_train, "sample": run_sample, "ablate": run_ablate, "bench": run_bench}


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: nanochat scalar {{{','.join(COMMANDS)}}} [--help] [flags]\n\n{__doc__}")
        return 0
    if argv[0] not in COMMANDS:
        raise UserError(f"no command {argv[0]!r}: choose one of {', '.join(COMMANDS)}")
    try:
        record = COMMANDS[argv[0]](argv[1:])
    except ScalarError as error:
        raise UserError(str(error)) from None
    if record is not None:
        print_json(record)
    return 0


if __name__ == "__main__":
    run(main)
