"""A whole build in miniature, by the real commands: a few hundred stories, one layer, four steps.

The tests of bad input and of cut-off builds use it: everything is real but the size.
"""

import dataclasses
import os
from pathlib import Path

from nanochat.stages import Stage
from scripts import __main__ as console
from scripts.build import TABLE

SMALL = {
    "tinyworld-make": "--workers 1 --world.documents 300 --world.val-documents 40 "
    "--world.conversations 200 --world.val-conversations 40 --world.exam-per-kind 1",
    "tok-train": "--vocab-size 512",
    "base-train": "--depth 1 --aspect-ratio 32 --head-size 16 --rows 1 --steps 4 "
    "--eval-tokens 1024 --batch-tokens 512 --save-every 1 --threads 1",
    "chat-sft": "--steps 3 --rows 1 --context 512 --save-every 1 --threads 1",
    "chat-eval": "--max-tokens 4 --threads 1",
}


def flags(verb: str) -> list[str]:
    return SMALL[verb].split()


def small_table() -> list[Stage]:
    """The build's own table, with flags that make each stage take a second."""
    return [
        dataclasses.replace(stage, command=(*stage.command, *flags(stage.name))) for stage in TABLE
    ]


def nanochat(*words: str) -> int:
    """`nanochat WORDS` in this process; returns its exit code."""
    try:
        console.main(list(words))
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("the console command always exits")


def make_small(base: Path, *verbs: str) -> None:
    """Run these verbs, small, into `base`."""
    before = os.environ.get("NANOCHAT_BASE_DIR")
    os.environ["NANOCHAT_BASE_DIR"] = str(base)
    try:
        for verb in verbs:
            assert nanochat(verb, *flags(verb)) == 0, f"{verb} failed"
    finally:
        os.environ.pop("NANOCHAT_BASE_DIR")
        if before is not None:
            os.environ["NANOCHAT_BASE_DIR"] = before
