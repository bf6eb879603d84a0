"""What test_distributed.py runs under torchrun: small trainings, whose losses go to a file.

torchrun ... tests/two_processes.py FOLDER PLAN      each word of PLAN is a training, see TRAINS
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import byte_tokenizer, config

from nanochat.cli import run
from nanochat.distributed import here, join
from nanochat.gpt import GPT
from nanochat.loss_eval import bits_per_byte
from nanochat.optimizers import Optimizers, OptimizerSettings
from nanochat.run_log import read_log
from nanochat.schedules import Schedule
from nanochat.sharding import spread_model
from nanochat.train_loop import LoopSettings, Run, restore, resume_point, train

STEPS, MIDDLE, PASSES, ROWS, CONTEXT = 20, 10, 2, 2, 48


class Numbered:
    """Batch i of an endless sequence: tokens that can be learned, drawn from i."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(self.number)
        self.number += 1
        start = torch.randint(0, 200, (ROWS, 1), generator=generator)
        ids = (start + torch.arange(CONTEXT + 1) * 3) % 256
        return ids[:, :-1], ids[:, 1:].contiguous()

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}


def training(tag: str, spread: bool = False, resume: bool = False) -> Iterator[float]:
    """A run of STEPS steps, or the second half of one; yields its losses, then bits per byte."""
    settings = LoopSettings(tag=tag, resume=resume, save_every=MIDDLE, keep=9, log_every=1)
    model = GPT(config(n_layer=2, sequence_len=CONTEXT))
    model.init_weights(torch.Generator().manual_seed(0))
    if spread:
        spread_model(model, list(model.blocks))
    checkpoint = resume_point("base", tag, settings)
    run = Run(
        stage="base",
        tag=tag,
        model=model,
        optimizers=Optimizers(model, OptimizerSettings(lr_scale=0.3)),
        schedule=Schedule(STEPS, warmup_steps=2),
        batches=Numbered(checkpoint.meta["batches"]["number"] if checkpoint else 0),
        accumulation=PASSES,
        provenance={"model": {}, "tokenizer": "bytes"},
    )
    run.optimizers.muon.dtype = torch.float32  # bf16 would round a difference of 1e-7 up to 1e-3
    if checkpoint:
        restore(run, checkpoint)
    begun = run.state.step
    train(run, settings)
    rows = [row for row in read_log(run.folder / "log.jsonl") if row["step"] > begun]
    yield from (row["loss"] for row in rows)
    unseen = Numbered(1000)
    validation = here().mine([next(unseen) for _ in range(4)])
    yield bits_per_byte(model, validation, byte_tokenizer().token_bytes())


TRAINS: dict[str, dict[str, Any]] = {
    "plain": {"tag": "plain"},
    "fsdp": {"tag": "fsdp", "spread": True},
    "second": {"tag": "second", "resume": True},
    "second-fsdp": {"tag": "second-fsdp", "spread": True, "resume": True},
}


def main(folder: Path, plan: list[str]) -> None:
    os.environ["NANOCHAT_BASE_DIR"] = str(folder)
    torch.set_num_threads(1)
    join(torch.device("cpu"))
    for name in plan:
        losses = list(training(**TRAINS[name]))
        if here().leads:
            (folder / f"{name}-{here().size}.json").write_text(json.dumps(losses))
    here().wait_for_all()


if __name__ == "__main__":
    run(lambda: main(Path(sys.argv[1]), sys.argv[2:]))
