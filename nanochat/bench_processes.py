"""How much faster several processes train the same steps than one, with one thread each.

Called by scripts/bench.py, which calls it again under torchrun. Launches alternate between one
process and several, and the medians are compared, because speed drifts on shared machines.
Read: ProcessBenchSettings -> bench_processes -> launch_once -> train_for_a_while.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from nanochat.cli import run
from nanochat.distributed import join
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.optimizers import Optimizers, OptimizerSettings
from nanochat.scaling import model_config
from nanochat.schedules import Schedule
from nanochat.train_loop import Run, seeded, take_step

WARM_UP_STEPS = 3


class BenchFailed(UserError):
    """A launch ended without a figure."""


@dataclass(frozen=True)
class ProcessBenchSettings:
    """Train the same steps in one process and in several; every process has one thread."""

    processes: int = 2  # compared with one
    depth: int = 4  # layers
    aspect_ratio: int = 32  # channels a layer
    head_size: int = 32  # channels of an attention head
    vocab: int = 2048  # vocabulary
    context: int = 256  # tokens in a row
    rows: int = 8  # rows in one pass
    passes: int = 2  # passes in a step, divided among the processes
    steps: int = 20  # steps that are timed
    rounds: int = 3  # launches of each kind
    dtype: str = "bf16"  # fp32 | bf16
    json: bool = False  # print one JSON object as the last line


def bench_processes(settings: ProcessBenchSettings) -> dict[str, Any]:
    """Tokens a second of one process and of several, and their ratio."""
    if settings.passes % settings.processes:
        raise BenchFailed(
            f"{settings.passes} passes do not divide among {settings.processes} processes; make "
            "--passes a multiple"
        )
    one, several = [], []
    for _ in range(settings.rounds):
        one.append(launch_once(settings, 1))
        several.append(launch_once(settings, settings.processes))
    return {
        "processes": settings.processes,
        "tokens_per_s_one": round(statistics.median(one), 1),
        "tokens_per_s_several": round(statistics.median(several), 1),
        "speedup": round(statistics.median(several) / statistics.median(one), 3),
        "speedups": [round(b / a, 3) for a, b in zip(one, several, strict=True)],
        "cores": os.cpu_count(),
    }


def launch_once(settings: ProcessBenchSettings, processes: int) -> float:
    """torchrun with so many processes; the leading one prints tokens a second."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", "nanochat.bench_processes"]
    done = subprocess.run(
        [*command, json.dumps(asdict(settings))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BenchFailed(f"{processes} processes: {done.stderr.strip()[-300:]}")
    return float(done.stdout.split()[-1])


class SameBatch:
    """The same tokens in every pass."""

    def __init__(self, settings: ProcessBenchSettings) -> None:
        shape = settings.rows, settings.context + 1
        ids = torch.randint(settings.vocab, shape, generator=seeded(0, "tokens"))
        self.batch = ids[:, :-1], ids[:, 1:].contiguous()  # (B, T) each

    def __next__(self) -> tuple[torch.Tensor, ...]:
        return self.batch

    def state_dict(self) -> dict[str, Any]:
        return {}


def train_for_a_while(settings: ProcessBenchSettings) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    world = join(torch.device("cpu"))
    config = model_config(
        settings.depth,
        settings.vocab,
        settings.context,
        aspect_ratio=settings.aspect_ratio,
        head_size=settings.head_size,
    )
    model = GPT(config, torch.bfloat16 if settings.dtype == "bf16" else torch.float32)
    model.init_weights(seeded(0, "weights"))
    trained = Run(
        stage="bench",
        tag="processes",
        model=model,
        optimizers=Optimizers(model, OptimizerSettings(lr_scale=0.1)),
        schedule=Schedule(settings.steps + WARM_UP_STEPS),
        batches=SameBatch(settings),
        accumulation=settings.passes,
        provenance={},
    )
    for _ in range(WARM_UP_STEPS):
        take_step(trained)
    world.wait_for_all()
    started, before = time.perf_counter(), trained.state.tokens
    for _ in range(settings.steps):
        take_step(trained)
    world.wait_for_all()
    if world.leads:
        print((trained.state.tokens - before) / (time.perf_counter() - started))


if __name__ == "__main__":
    run(lambda: train_for_a_while(ProcessBenchSettings(**json.loads(sys.argv[1]))))
