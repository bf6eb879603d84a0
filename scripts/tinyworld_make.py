"""Write TinyWorld: pretraining text, dialogues and the held-out exam, all from one seed.

A second call with the same settings finds the finished files and does nothing.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nanochat.cli import parse, print_json, run
from nanochat.paths import data_dir
from nanochat.tinyworld import WorldSettings, write_tinyworld


@dataclass(frozen=True)
class MakeSettings:
    """Where to write and what."""

    out: Path | None = None
    """Folder to write into; by default data/tinyworld in the base folder."""
    workers: int = 0
    """Processes that write; 0 takes one for each processor."""
    force: bool = False
    """Write again even if the finished files have these settings."""
    json: bool = False
    """Print one JSON object with the statistics as the last line."""
    world: WorldSettings = field(default_factory=WorldSettings)


def finished(directory: Path, settings: WorldSettings) -> dict[str, Any] | None:
    """The manifest of an earlier run with the same settings, if all its files are still there."""
    path = directory / "manifest.json"
    if not path.exists():
        return None
    manifest = json.loads(path.read_text(encoding="utf-8"))
    whole = all((directory / name).exists() for name in manifest["sha256"])
    return manifest if whole and manifest["settings"] == asdict(settings) else None


def show_progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r  {what:<10} {done:>7,} of {total:,}", end=end, file=sys.stderr, flush=True)


def show(directory: Path, manifest: dict[str, Any]) -> None:
    """Print what was written, in figures."""
    print(f"TinyWorld in {directory}")
    for name, numbers in manifest["statistics"].items():
        facts = [f"{k.replace('_', ' ')} {v:,}" for k, v in numbers.items() if isinstance(v, int)]
        print(f"  {name:<10} {', '.join(facts)}")


def main(argv: Sequence[str] | None = None) -> None:
    settings = parse(MakeSettings, argv, "nanochat tinyworld-make", __doc__)
    directory = settings.out or data_dir("tinyworld")
    manifest = None if settings.force else finished(directory, settings.world)
    if manifest is None:
        manifest = write_tinyworld(directory, settings.world, show_progress, settings.workers)
    show(directory, manifest)
    if settings.json:
        print_json({"directory": str(directory), **manifest["statistics"]})


if __name__ == "__main__":
    run(main)
