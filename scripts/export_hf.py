"""Write a trained model as a Hugging Face folder that transformers, vLLM and others can load.

Takes the newest model of the preset; where there is none yet, a small one is trained first.
Only `classic` models have a counterpart there. `nanochat export-check OUT` compares the logits.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from nanochat.checkpoint import Checkpoint, check_tokenizer, find_checkpoint, load_checkpoint
from nanochat.cli import parse, print_json, run
from nanochat.errors import UserError
from nanochat.export import newest_classic, write_export
from nanochat.export_onnx import need, onnx_model
from nanochat.gpt import GPTConfig
from nanochat.paths import tokenizer_dir
from nanochat.tokenizer import Tokenizer

TAG = "classic"  # of the model that is trained here when there is none
RECIPE = (  # what the build trains, a little shorter
    *("--preset", "classic", "--tag", TAG, "--depth", "4", "--aspect-ratio", "32"),
    *("--head-size", "32", "--context", "256", "--max-context", "512", "--rows", "8"),
    *("--batch-tokens", "2048", "--buffer", "64", "--warmdown-share", "0.4"),
    *("--optimizer.lr-scale", "0.3"),
)


class NothingToExport(UserError):
    """There is no classic model, and none is to be trained."""


@dataclass(frozen=True)
class ExportSettings:
    """What to export, and where to."""

    out: tyro.conf.Positional[Path]  # the folder to write
    preset: Literal["classic"] = "classic"  # the architecture over there
    stage: str = ""  # base | sft | rl; empty: whichever was trained last
    tag: str = ""  # name of the run; empty: the newest that can be exported
    onnx: bool = True  # write model.onnx too, if the package onnx is installed
    train_steps: int = 300  # where no model can be exported, train one this long; 0: say so instead
    json: bool = False  # print one JSON object as the last line


def chosen(settings: ExportSettings) -> Checkpoint:
    """The checkpoint asked for, or the newest that can be exported, trained now if need be."""
    if settings.stage or settings.tag:
        path = find_checkpoint(settings.stage or "base", settings.tag or None)
        return load_checkpoint(path, with_optimizer=False)
    found = newest_classic()
    if found is None:
        if not settings.train_steps:
            raise NothingToExport(
                "no model of preset classic here: train one with `nanochat base-train --preset "
                "classic --tag classic`"
            )
        print(f"no classic model yet: training one for {settings.train_steps} steps", flush=True)
        steps = ("--steps", str(settings.train_steps), "--resume")
        command = [sys.executable, "-m", "scripts", "base-train", *RECIPE, *steps]
        if subprocess.run(command).returncode:
            raise NothingToExport("the training of a classic model failed; its words are above")
        found = find_checkpoint("base", TAG)
    return load_checkpoint(found, with_optimizer=False)


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(ExportSettings, argv, "nanochat export-hf", __doc__)
    tokenizer = Tokenizer.load(tokenizer_dir())
    checkpoint = chosen(settings)
    check_tokenizer(checkpoint.meta, tokenizer)
    out = write_export(settings.out.expanduser().resolve(), checkpoint, tokenizer)
    files = sorted(path.name for path in out.iterdir())
    if settings.onnx:
        config = GPTConfig(**checkpoint.meta["model"])
        need("onnx").save(onnx_model(checkpoint.model, config), str(out / "model.onnx"))
        files.append("model.onnx")
    print(f"{checkpoint.path.parent.name}/{checkpoint.path.name} is in {out}: {', '.join(files)}")
    if settings.json:
        print_json({"out": str(out), "files": files, "step": checkpoint.meta["step"]})
    return 0


if __name__ == "__main__":
    run(main)
