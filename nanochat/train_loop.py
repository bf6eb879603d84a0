"""One training loop for all stages: pretrain.py and sft.py hand it the difference as arguments.

Read: LoopSettings -> TrainState -> train -> take_step -> StopSignals.
A checkpoint comes before the evaluation of the same step: a run that dies in it loses nothing.
B rows, T context. A batch is (inputs, targets), both int64 (B, T); a target of -1 is not graded.
"""

import math
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor

from nanochat.checkpoint import (
    Checkpoint,
    CheckpointMismatch,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.optimizers import Optimizers
from nanochat.paths import checkpoints_dir
from nanochat.schedules import Schedule

SMOOTHING = 0.95  # the loss shown is a running mean of about 20 steps


class LossNotFinite(UserError):
    """The loss became NaN or infinite."""


class RunExists(UserError):
    """A fresh run would overwrite an older one of the same tag."""


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM came; everything is saved."""


class Batches(Protocol):
    """What the loop asks of dataloader.PackedLoader and sft.ConversationLoader."""

    def __next__(self) -> tuple[Tensor, Tensor]: ...
    def state_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class LoopSettings:
    """Flags that every stage has."""

    tag: str = ""  # name of the run; empty: d<depth>
    device: str = "auto"  # auto | cpu | cuda | mps
    dtype: str = "auto"  # format of the activations: auto | fp32 | bf16 | fp16
    threads: int = 0  # processor threads; 0: one for each core
    seed: int = 42
    resume: bool = False  # go on from this tag's newest checkpoint, if there is one
    overwrite: bool = False  # start afresh, replacing this tag's checkpoints
    eval_every: int = 250  # steps between evaluations; 0: only at the end
    save_every: int = 0  # steps between checkpoints; 0: with each evaluation
    keep: int = 2  # checkpoints kept
    dry_run: bool = False  # print the plan and stop
    json: bool = False  # print one JSON object as the last line


@dataclass
class TrainState:
    """What changes during a run and is saved with it."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    smooth_loss: float = 0.0  # debiased by (1 - SMOOTHING^step) when shown
    curve: list[list[float | None]] = field(default_factory=list)  # step, train, val, tokens

    def shown_loss(self) -> float:
        return self.smooth_loss / (1 - SMOOTHING ** max(1, self.step))


@dataclass
class Run:
    """Everything a stage brings to the loop."""

    stage: str
    tag: str
    model: GPT
    optimizers: Optimizers
    schedule: Schedule
    batches: Batches
    accumulation: int
    provenance: dict[str, Any]
    evaluate: Callable[[GPT], float] | None = None  # -> validation bits per byte
    show: Callable[["Run", float], None] = lambda run, seconds: None
    state: TrainState = field(default_factory=TrainState)

    def save(self, keep: int) -> None:
        """The whole state: the next step after loading is the one that would have come."""
        save_checkpoint(
            checkpoints_dir(self.stage, self.tag),
            self.state.step,
            self.model.state_dict(),
            self.optimizers.state_dict(),
            self.provenance | {"loop": asdict(self.state), "batches": self.batches.state_dict()},
            keep,
        )


def resume_point(stage: str, tag: str, settings: LoopSettings) -> Checkpoint | None:
    """The checkpoint to go on from, None for a fresh run; refuses to overwrite one unasked."""
    folder = checkpoints_dir(stage, tag)
    found = list_checkpoints(folder)
    if not found:
        return None
    if settings.overwrite:
        shutil.rmtree(folder)
        return None
    if not settings.resume:
        raise RunExists(
            f"{folder} already holds {found[-1].name}; --resume goes on from it, --overwrite "
            "replaces it, --tag NAME starts another run"
        )
    return load_checkpoint(found[-1])


def restore(run: Run, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights, optimizer and counters into a run of the same flags."""
    for key in ("model", "tokenizer"):
        if checkpoint.meta[key] != run.provenance[key]:
            raise CheckpointMismatch(
                f"{checkpoint.path} has another {key} than these flags; use the flags it was made "
                "with, or --overwrite to start afresh"
            )
    run.model.load_state_dict(checkpoint.model)
    run.optimizers.load_state_dict(checkpoint.optimizer)
    run.state = TrainState(**checkpoint.meta["loop"])


def train(run: Run, settings: LoopSettings) -> TrainState:
    """Run the schedule to its end, or to the first SIGINT or SIGTERM (raises Stopped)."""
    state, last = run.state, run.schedule.steps
    save_every = settings.save_every or settings.eval_every
    run.model.train()
    with StopSignals() as signals:
        while True:
            measured = bool(state.curve) and state.curve[-1][0] == state.step
            if run.evaluate and not measured and _due(state.step, settings.eval_every, last):
                score = run.evaluate(run.model)
                state.curve.append([state.step, state.shown_loss(), score, state.tokens])
            if state.step >= last:
                return state
            started = time.perf_counter()
            take_step(run)
            seconds = time.perf_counter() - started
            state.seconds += seconds
            run.show(run, seconds)
            if signals.seen or _due(state.step, save_every, last):
                run.save(settings.keep)
            if signals.seen and state.step < last:
                raise Stopped(f"saved at step {state.step}; --resume goes on from there")


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step > 0 and step % every == 0)


# @learn:optimization.gradient_accumulation
def take_step(run: Run) -> None:
    """One optimizer step: `accumulation` batches forward and backward, then the update."""
    state, total = run.state, 0.0
    device = run.model.cos.device
    for _ in range(run.accumulation):
        inputs, targets = next(run.batches)
        loss = run.model(inputs.to(device), targets.to(device))
        (loss / run.accumulation).backward()
        total += loss.item() / run.accumulation
        state.tokens += inputs.numel()
    if not math.isfinite(total):
        raise LossNotFinite(
            f"the loss is {total} at step {state.step + 1}; the last checkpoint is intact: "
            "resume it with a smaller --optimizer.lr-scale"
        )
    schedule, step = run.schedule, state.step
    run.optimizers.step(
        schedule.lr_scale(step), schedule.momentum(step), schedule.decay_scale(step)
    )
    run.optimizers.zero_grad()
    state.step += 1
    state.smooth_loss = SMOOTHING * state.smooth_loss + (1 - SMOOTHING) * total


# @learn:systems.checkpoints
class StopSignals:
    """Within it, SIGINT and SIGTERM set a flag, so that a step is finished and saved first.

    A second signal gets the usual treatment at once.
    """

    def __init__(self) -> None:
        self.seen = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        signal.signal(number, self.before[number])

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def seeded(seed: int, stream: str) -> torch.Generator:
    """A generator of its own for each purpose, derived from the one seed."""
    mixed = seed ^ int.from_bytes(stream.encode()[:7].ljust(7, b"\0"), "little")
    return torch.Generator().manual_seed(mixed)
