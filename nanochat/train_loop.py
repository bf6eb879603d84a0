"""One training loop for all stages: pretrain.py and sft.py hand it the difference as arguments.

Read: LoopSettings -> TrainState -> Run -> train -> learn -> take_step -> StopSignals.
A checkpoint comes before the evaluation of the same step: a run that dies in it loses nothing.
Of W processes (distributed.py) all read the same batches in the same order, and process r works on
every W-th from r on: so the data of a step does not depend on W.
B rows, T context. A batch is (inputs, targets), both int64 (B, T); a target of -1 is not graded.
"""

import math
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from nanochat.checkpoint import (
    Checkpoint,
    CheckpointMismatch,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from nanochat.compiled import speed_up
from nanochat.device import sent
from nanochat.distributed import World, connection, here
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.launch import launch
from nanochat.optimizers import Optimizers
from nanochat.paths import checkpoints_dir
from nanochat.precision import LossScaler
from nanochat.run_log import RunLog, Wandb
from nanochat.scaling import BadPlan
from nanochat.schedules import Schedule
from nanochat.sharding import load_weights, whole_weights

SMOOTHING = 0.95  # the loss shown is a running mean of about 20 steps


class LossNotFinite(UserError):
    """The loss became NaN or infinite."""


class RunExists(UserError):
    """A fresh run would overwrite an older one of the same tag."""


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM came; everything is saved."""


class Batches(Protocol):
    """What the loop asks of dataloader.PackedLoader, sft.ConversationLoader, rl.RolloutBatches."""

    def __next__(self) -> tuple[Tensor, ...]: ...  # inputs, targets and, if weighted, shares
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
    log_every: int = 10  # steps between lines of the log
    wandb: Wandb = "off"  # Weights & Biases: off | offline | online
    compile: Literal["auto", "on", "off"] = "auto"  # auto: on CUDA, where it pays
    recompute: bool = False  # compute activations again in the backward pass: less memory, slower
    fp8: bool = False  # matrix products in 8 bits, on hardware that has them
    dry_run: bool = False  # print the plan and stop
    json: bool = False  # print one JSON object as the last line


@dataclass
class TrainState:
    """What changes during a run and is saved with it."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    smooth_loss: float = 0.0  # debiased by (1 - SMOOTHING^step) when shown
    loss_scale: float = 0.0  # of fp16, see precision.py; 0 before the first step
    good_steps: int = 0  # since the scale last changed
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
    accumulation: int  # batches in one step, of all processes together
    provenance: dict[str, Any]
    evaluate: Callable[[GPT], float] | None = None  # -> validation bits per byte
    show: Callable[["Run", float], None] = lambda run, seconds: None
    notes: Callable[[], dict[str, Any]] = dict  # -> what else to log of the newest step
    state: TrainState = field(default_factory=TrainState)
    world: World = field(default_factory=here)

    @property
    def folder(self) -> Path:
        return checkpoints_dir(self.stage, self.tag)

    def save(self, keep: int) -> None:
        """The whole state: the next step after loading is the one that would have come.

        All processes bring their parts together; the leading one writes.
        """
        weights, optimizer = whole_weights(self.model), self.optimizers.state_dict()
        if self.world.leads:
            meta = {"loop": asdict(self.state), "batches": self.batches.state_dict()}
            save_checkpoint(
                self.folder, self.state.step, weights, optimizer, self.provenance | meta, keep
            )

    def where_saved(self) -> str:
        """How to go on after a failure, in words."""
        found = list_checkpoints(self.folder)
        if not found:
            return "nothing was saved yet: run the same command again"
        return f"{found[-1].name} is saved: the same command with --resume goes on from there"


def resume_point(stage: str, tag: str, settings: LoopSettings) -> Checkpoint | None:
    """The checkpoint to go on from, None for a fresh run; refuses to overwrite one unasked."""
    return here().leader_first(lambda: _resume_point(stage, tag, settings))


def _resume_point(stage: str, tag: str, settings: LoopSettings) -> Checkpoint | None:
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
    load_weights(run.model, checkpoint.model)
    run.optimizers.load_state_dict(checkpoint.optimizer)
    run.state = TrainState(**checkpoint.meta["loop"])


def train(run: Run, settings: LoopSettings) -> TrainState:
    """Run the schedule to its end, or to the first SIGINT or SIGTERM (raises Stopped)."""
    check_passes(run.accumulation)
    speed_up(run.model, settings.compile, settings.recompute, settings.fp8)
    run.model.train()
    log = None
    if run.world.leads:
        name = f"{run.stage}-{run.tag}"
        log = RunLog(run.folder, run.provenance, run.state.step, settings.wandb, name)
    with connection(run.where_saved), StopSignals() as signals:
        learn(run, settings, signals, log)
    if log:
        log.close()
    return run.state


def check_passes(accumulation: int) -> None:
    """Every process must have the same number of passes in a step."""
    size = here().size
    if accumulation % size:
        raise BadPlan(
            f"a step of {accumulation} passes does not divide among {size} processes; give "
            f"--accumulation {size} (and fewer --rows)"
        )


def learn(run: Run, settings: LoopSettings, signals: "StopSignals", log: RunLog | None) -> None:
    """The loop itself: evaluate when due, learn, save."""
    state, last = run.state, run.schedule.steps
    save_every = settings.save_every or settings.eval_every
    while True:
        measured = bool(state.curve) and state.curve[-1][0] == state.step
        if run.evaluate and not measured and _due(state.step, settings.eval_every, last):
            score = run.evaluate(run.model)
            state.curve.append([state.step, state.shown_loss(), score, state.tokens])
            if log:
                log.note({"step": state.step, "tokens": state.tokens, "val_bpb": score})
                log.draw()
        if state.step >= last:
            return
        started = time.perf_counter()
        loss = take_step(run)
        seconds = time.perf_counter() - started
        state.seconds += seconds
        if run.world.leads:
            run.show(run, seconds)
        if log and _due(state.step, settings.log_every, last):
            log.note(describe(run, loss, seconds))
        stop = run.world.sum([float(signals.seen)]) != [0.0]  # all stop at the same step
        if stop or _due(state.step, save_every, last):
            run.save(settings.keep)
        if stop and state.step < last:
            raise Stopped(f"saved at step {state.step}; --resume goes on from there")


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step > 0 and step % every == 0)


def describe(run: Run, loss: float, seconds: float) -> dict[str, Any]:
    """The newest step as a line of the log."""
    state = run.state
    return {
        "step": state.step,
        "loss": loss,
        "lr_scale": run.schedule.lr_scale(state.step - 1),
        "tokens": state.tokens,
        "step_s": round(seconds, 4),
        "seconds": round(state.seconds, 3),
        **run.notes(),
    }


# @learn:optimization.gradient_accumulation
# @def:step
# One change of all weights, after the gradients of a whole batch have been added up.
def take_step(run: Run) -> float:
    """One optimizer step: `accumulation` batches forward and backward, then the update.

    Returns the mean loss over the batches of all processes.
    """
    state, world, total = run.state, run.world, 0.0
    losses: list[Tensor] = []
    device = run.model.cos.device
    scaler = LossScaler(run.model.dtype, state)
    for number in range(run.accumulation):
        batch = next(run.batches)
        state.tokens += batch[0].numel()
        if number % world.size != world.rank:
            continue  # another process's
        inputs, targets, *share = (sent(x, device) for x in batch)
        loss = run.model(inputs, targets, share=share[0] if share else None)
        scaler.scaled(loss / run.accumulation).backward()
        losses.append(loss.detach())
    for loss in losses:  # read when all is under way: a GPU would wait for every number it shows
        total += loss.item() / run.accumulation
    (total,) = world.sum([total])
    if not math.isfinite(total):
        raise LossNotFinite(
            f"the loss is {total} at step {state.step + 1}; {run.where_saved()}, "
            "with a smaller --optimizer.lr-scale"
        )
    schedule, step = run.schedule, state.step
    if scaler.unscale(run.model, world):
        run.optimizers.step(
            schedule.lr_scale(step), schedule.momentum(step), schedule.decay_scale(step)
        )
    run.optimizers.zero_grad()
    state.step += 1
    state.smooth_loss = SMOOTHING * state.smooth_loss + (1 - SMOOTHING) * total
    return total


# @learn:systems.checkpoints
class StopSignals:
    """Within it, SIGINT and SIGTERM set a flag, so that a step is finished and saved first.

    A second signal gets the usual treatment at once; not under torchrun, which hands on what its
    processes may have got already, and kills after 30 seconds itself.
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
        if launch().alone:
            signal.signal(number, self.before[number])

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def seeded(seed: int, stream: str) -> torch.Generator:
    """A generator of its own for each purpose, derived from the one seed."""
    mixed = seed ^ int.from_bytes(stream.encode()[:7].ljust(7, b"\0"), "little")
    return torch.Generator().manual_seed(mixed)
