"""One run: text and settings in; a trained model, its losses and a report out.

A run goes on from its last checkpoint bit for bit: weights, optimizer, random streams and the
position in the data are all there. Called by `nanochat scalar train` and by ablation.py.
Read: Run -> Run.step -> Run.save and load -> train.
"""

import hashlib
import json
import platform
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.scalar import checkpoint
from nanochat.scalar.bigram import CountBigram
from nanochat.scalar.checkpoint import BrokenCheckpoint
from nanochat.scalar.engine import Engine, TapeEngine, make_engine
from nanochat.scalar.evaluate import Evaluation, evaluate
from nanochat.scalar.guards import MemoryDriftGuard, check_loss
from nanochat.scalar.optimizer import Kernel, Optimizer
from nanochat.scalar.schedules import rate_at
from nanochat.scalar.settings import ModelSettings, TrainSettings, resolve, shape_of
from nanochat.scalar.shape import Shape
from nanochat.scalar.streams import Streams
from nanochat.scalar.text import open_corpus

GUARD_EVERY = 50  # steps between looks at the memory


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM came; everything is saved."""


def identity(settings: ModelSettings) -> dict[str, Any]:
    """The settings that decide what a run computes, as JSON; the data counts by its content."""
    names = {f.name for f in fields(ModelSettings)} - {"data", "eval_documents"}
    return {name: value for name, value in asdict(settings).items() if name in names}


def fingerprint(parameters: np.ndarray) -> str:
    """microgpt.py's: a hash that changes if any weight changes in its last bit."""
    text = json.dumps([repr(p) for p in parameters.tolist()])
    return hashlib.sha256(text.encode()).hexdigest()


def kernel_for(engine: Engine, settings: ModelSettings) -> tuple[Kernel, Any]:
    """Adam with libm's bits where the engine has them too."""
    if isinstance(engine, TapeEngine) and engine.library is not None:
        return "c", engine.library
    return ("python" if settings.engine == "object" else "numpy"), None


class Run:
    """Everything that changes from step to step, and what it takes to make a step."""

    def __init__(self, settings: ModelSettings, cache: Path | None) -> None:
        s = resolve(settings)
        self.streams = Streams(s.seed, s.parity)
        assert s.context is not None
        self.corpus = open_corpus(s.data, self.streams, s.context, s.held_out, s.style, s.parity)
        n_tokens = len(self.corpus.tokenizer)
        self.settings = s = resolve(settings, n_tokens)
        self.shape: Shape = shape_of(s, n_tokens)
        self.engine = make_engine(
            s.engine or "tape",
            self.shape,
            self.corpus.longest(),
            s.replay,
            cache,
            s.device,
            s.dtype,
        )
        self.parameters = self.shape.first_parameters(self.streams["init"])
        self.first_fingerprint = fingerprint(self.parameters)
        kernel, library = kernel_for(self.engine, s)
        self.optimizer = Optimizer(
            s.optimizer or "adam",
            self.shape.n_parameters,
            s.beta1 or 0.0,
            s.beta2 or 0.0,
            s.decay,
            kernel,
            library,
        )
        self.gradient = np.zeros(self.shape.n_parameters)
        self.losses: list[float] = []
        self.evaluations: list[dict[str, Any]] = []
        self.order = list(range(len(self.corpus.train)))
        self.position = 0  # in `order`; the end of it begins a new pass

    @property
    def steps(self) -> int:
        return self.settings.steps or 1

    def _next_document(self) -> list[int]:
        if self.position % len(self.order) == 0 and not self.settings.parity:
            self.streams["order"].shuffle(self.order)
        document = self.corpus.train[self.order[self.position % len(self.order)]]
        self.position += 1
        return document

    def step(self) -> float:
        """Learn from one batch; returns its loss before the step."""
        s, batch = self.settings, self.settings.batch
        self.gradient[:] = 0.0
        loss = 0.0
        rate = rate_at(s.schedule or "constant", s.rate or 0.0, len(self.losses), self.steps)
        with np.errstate(all="ignore"):  # check_loss says it better than numpy's warnings
            for _ in range(batch):
                document = self._next_document()
                loss += self.engine.gradient(self.parameters, document, self.gradient, 1 / batch)
            loss = check_loss(loss / batch, len(self.losses))
            self.optimizer.step(self.parameters, self.gradient, rate)
        self.losses.append(loss)
        return loss

    def evaluate(self, check: Callable[[], None] = lambda: None) -> Evaluation | None:
        """On the documents held out; None if there are none."""
        documents = self.corpus.held_out[: self.settings.eval_documents]
        if not documents:
            return None
        result = evaluate(
            lambda document: self.engine.loss(self.parameters, document),
            documents,
            self.corpus.tokenizer,
            check,
        )
        self.evaluations.append({"step": len(self.losses), **result.as_dict()})
        return result

    def baseline(self) -> float | None:
        """Nats per character of the counting bigram on the same held-out documents."""
        documents = self.corpus.held_out[: self.settings.eval_documents]
        if not documents:
            return None
        counts = CountBigram(self.shape.n_tokens, self.corpus.train)
        surprises = [x for document in documents for x in counts.surprises(document)]
        return sum(surprises) / len(surprises)

    def save(self, folder: Path) -> Path:
        """Write a checkpoint from which the run goes on bit for bit; returns its folder."""
        matrices = self.shape.as_arrays(self.parameters)
        kept = {f"optimizer.{name}": array for name, array in self.optimizer.state().items()}
        state = {
            "settings": identity(self.settings),
            "shape": self.shape.as_dict(),
            "characters": self.corpus.tokenizer.characters,
            "bos_last": self.corpus.tokenizer.bos_last,
            "data_sha256": self.corpus.fingerprint,
            "streams": self.streams.state(),
            "order": self.order,
            "position": self.position,
            "optimizer_steps": self.optimizer.steps_done,
            "evaluations": self.evaluations,
            "made_with": {  # equal bits are promised on one machine: libm rounds exp and pow
                "python": platform.python_version(),
                "numpy": np.__version__,
                "libc": " ".join(platform.libc_ver()),
                "machine": platform.machine(),
            },
        }
        arrays = {**matrices, **kept, "losses": np.array(self.losses)}
        return checkpoint.save(folder, len(self.losses), arrays, state)

    def load(self, folder: Path) -> None:
        """Go on from the newest checkpoint in `folder`; refuses another run's."""
        arrays, state = checkpoint.newest(folder)
        if state["data_sha256"] != self.corpus.fingerprint:
            raise BrokenCheckpoint(
                f"{folder} was trained on other text than {self.settings.data}:"
                " give the same --data, or leave out --resume"
            )
        mine = json.loads(json.dumps(identity(self.settings)))
        for name, value in state["settings"].items():
            if mine.get(name) != value:
                flag = name.replace("_", "-")
                raise BrokenCheckpoint(
                    f"{folder} was trained with --{flag} {value}, not {mine.get(name)}:"
                    " give the same, or leave out --resume"
                )
        self.parameters[:] = np.concatenate([arrays[name].ravel() for name in self.shape.matrices])
        for name, array in self.optimizer.state().items():
            array[:] = arrays[f"optimizer.{name}"]
        self.optimizer.steps_done = state["optimizer_steps"]
        self.losses = arrays["losses"].tolist()
        self.streams.restore(state["streams"])
        self.order, self.position = state["order"], state["position"]
        self.evaluations = state["evaluations"]


class StopSignals:
    """Within it SIGINT and SIGTERM set a flag, so that a step is finished and saved first."""

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> "StopSignals":
        numbers = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def _note(self, *_: object) -> None:
        self.seen = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def train(
    settings: TrainSettings,
    folder: Path,
    cache: Path | None,
    show: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train to the end (or to stop_at), saving on the way; returns the report's record.

    SIGINT and SIGTERM save and raise Stopped.
    """
    run = Run(settings, cache)
    if settings.resume:
        run.load(folder)
    else:
        checkpoint.start_anew(folder)
    last = min(run.steps, settings.stop_at or run.steps)
    guard = MemoryDriftGuard(ratio=settings.memory_ratio)
    seconds, first = 0.0, len(run.losses)
    tokens = 0
    with StopSignals() as signals:
        while len(run.losses) < last:
            started, position = time.perf_counter(), run.position
            loss = run.step()
            seconds += time.perf_counter() - started
            tokens += _tokens_since(run, position)
            step = len(run.losses)
            if step % GUARD_EVERY == 0:
                guard.check(f"step {step}")
            show(f"step {step:,} of {run.steps:,}  loss {loss:.4f}")
            stopping = signals.seen or step == last
            if stopping or step % settings.checkpoint_every == 0:
                run.save(folder)
            if signals.seen and step < last:
                raise Stopped
            if step == last or step % settings.eval_every == 0:
                found = run.evaluate(lambda: guard.check("validation"))
                if found:
                    show(f"step {step:,}  held out {found.nats_per_char:.4f} nats/char")
    return summary(run, seconds, tokens, len(run.losses) - first)


def _tokens_since(run: Run, position: int) -> int:
    n = len(run.order)
    return sum(len(run.corpus.train[run.order[i % n]]) - 1 for i in range(position, run.position))


def summary(run: Run, seconds: float, tokens: int, steps: int) -> dict[str, Any]:
    """What there is to say about a run, for report.py and for programs."""
    s, last = run.settings, run.losses[-50:]
    replay = None
    if isinstance(run.engine, TapeEngine):
        replay = "c" if run.engine.library is not None else "numpy"
    held_out = run.evaluations[-1] if run.evaluations else None
    return {
        "model": s.model,
        "engine": s.engine,
        "replay": replay,
        "style": s.style,
        "seed": s.seed,
        "parity": s.parity,
        "settings": identity(s),
        "parameters": run.shape.n_parameters,
        "vocabulary": run.shape.n_tokens,
        "train_documents": len(run.corpus.train),
        "data_sha256": run.corpus.fingerprint,
        "steps": len(run.losses),
        "final_loss": run.losses[-1] if run.losses else None,
        "mean_loss_last_50": sum(last) / len(last) if last else None,
        "held_out": held_out,
        "counting_baseline_nats_per_char": run.baseline(),
        "fingerprints": {"init": run.first_fingerprint, "end": fingerprint(run.parameters)},
        "steps_per_s": steps / seconds if steps else None,
        "tokens_per_s": tokens / seconds if steps else None,
        "losses": run.losses,
    }
