"""Every setting of the lab; the command line is made from these classes.

What is None is filled in by `resolve`: from the preset for the mini-GPT (a and b are microgpt.py's
two recipes), from BIGRAM for the bigram.
Read: ModelSettings -> one class for each command -> resolve.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from nanochat.scalar.engine import EngineName
from nanochat.scalar.errors import ScalarError
from nanochat.scalar.optimizer import Kind
from nanochat.scalar.schedules import Schedule
from nanochat.scalar.shape import Activation, Model, Shape
from nanochat.scalar.tape import Backend
from nanochat.scalar.text import NAMES, Style


@dataclass(frozen=True)
class ModelSettings:
    """What to learn, from what, and how."""

    mode: Literal["scalar", "tensor"] | None = None
    """One number at a time, or whole matrices; scalar if the engine does not say otherwise."""
    engine: EngineName | None = None
    """object, tape (mode scalar, the default) or numpy (the default), torch (mode tensor)."""
    replay: Backend = "auto"
    """How the tape is replayed: c where there is a compiler, else numpy; or one of the two."""
    device: str = "cpu"
    """Where torch computes: cpu or cuda."""
    dtype: Literal["float64", "float32"] = "float64"
    """Precision of torch."""
    model: Model = "mini-gpt"
    """mini-gpt looks back over its context, bigram at the last character only."""
    data: Path = NAMES
    """Text, one document a line; the default is a list of 5,163 first names."""
    style: Style = "classic"
    """futuristic adds a list of invented names to the documents to learn from."""
    seed: int = 42
    """Every random draw follows from it."""
    preset: Literal["a", "b"] = "b"
    """The recipe of microgpt.py that fills in what is not given below."""
    parity: bool = False
    """As microgpt.py: BOS last, nothing held out, one random stream; the same bits (not torch)."""
    tie_head: bool = False
    """Score with the token embedding instead of a matrix of its own."""
    norm: bool = True
    """RMSNorm after the embedding and before each block."""
    activation: Activation | None = None
    """relu or relu2 (its square)."""
    layers: int | None = None
    """Blocks of attention and MLP."""
    heads: int | None = None
    """Attention heads in each block."""
    width: int | None = None
    """Numbers for each token."""
    context: int | None = None
    """Tokens the model can look back on; longer lines are learned in pieces."""
    init_std: float | None = None
    """Spread of the first random weights."""
    out_std: float | None = None
    """The same for the two matrices of a block that write into the residual stream."""
    steps: int | None = None
    """Optimizer steps of the whole schedule."""
    batch: int = 1
    """Documents a step."""
    optimizer: Kind | None = None
    """sgd, adam or adamw."""
    rate: float | None = None
    """Learning rate at the first step."""
    schedule: Schedule | None = None
    """How the rate falls: constant, linear, cosine or 1-sqrt."""
    beta1: float | None = None
    """Adam: how slowly the mean gradient is forgotten."""
    beta2: float | None = None
    """Adam: how slowly its mean square is forgotten."""
    decay: float = 0.01
    """Weight decay of adamw, per step and unit of rate."""
    held_out: float = 0.1
    """Share of the documents kept for validation."""
    eval_documents: int | None = None
    """Most documents in one validation; by default all, 32 with the object engine."""


@dataclass(frozen=True)
class TrainSettings(ModelSettings):
    """nanochat scalar train"""

    tag: str = "names"
    """Name of the run: the folder under checkpoints/scalar/."""
    out: Path | None = None
    """Another folder for the run."""
    resume: bool = False
    """Go on from the run's last checkpoint; without it the run starts anew."""
    stop_at: int | None = None
    """Stop after this step and save; the schedule stays that of --steps."""
    checkpoint_every: int = 250
    """Steps between checkpoints; the last step is always saved."""
    eval_every: int = 250
    """Steps between validations; the last step always has one."""
    memory_ratio: float = 1.5
    """Stop when memory grows by this factor within the last checks: something leaks."""
    json: bool = False
    """End with one line of JSON."""


@dataclass(frozen=True)
class SampleSettings:
    """nanochat scalar sample"""

    tag: str = "names"
    """Name of a run of `nanochat scalar train`."""
    checkpoint: Path | None = None
    """Another run's folder, or one of its checkpoints."""
    data: Path | None = None
    """Refuse unless the checkpoint's vocabulary is that of this file."""
    prompt: str = ""
    """How the text begins."""
    count: int = 20
    """How many texts."""
    max_new_tokens: int | None = None
    """Most characters to add; never more than the context holds."""
    temperature: float = 0.5
    """Below 1: bolder about the favourites. Above 0."""
    top_k: int | None = None
    """Draw from the k likeliest characters only."""
    top_p: float | None = None
    """Draw from the likeliest characters that together have this probability."""
    seed: int | None = None
    """Seed of the draws; by default the run's own stream goes on."""
    json: bool = False
    """End with one line of JSON."""


@dataclass(frozen=True)
class AblateSettings(ModelSettings):
    """nanochat scalar ablate"""

    axes: tuple[str, ...] = ("tie_head", "norm")
    """Settings to vary: a switch by its name (norm), others with values (layers=1,2)."""
    seeds: int = 3
    """Runs of every combination, with the seeds seed, seed + 1, ..."""
    fraction: Literal["full", "half"] = "full"
    """half runs every second combination, so that each value of an axis keeps its share."""
    tag: str = "ablation"
    """Name of the study: the folder under report/scalar/."""
    out: Path | None = None
    """Another folder for the study."""
    json: bool = False
    """End with one line of JSON."""


@dataclass(frozen=True)
class BenchSettings:
    """nanochat scalar bench"""

    rounds: int = 5
    """How often the programs take turns."""
    documents: int = 5
    """Documents (steps) in each round of microgpt.py and the object engine."""
    largest: int = 10_000_000
    """Largest graph of the cost-per-node table; ten million nodes need 5 GB."""
    json: bool = False
    """End with one line of JSON."""


BIGRAM: dict[str, Any] = {
    "activation": "relu", "layers": 0, "heads": 1, "context": 16, "init_std": 0.08, "out_std": 0.08,
    "steps": 1000, "optimizer": "adam", "rate": 0.05, "schedule": "linear", "beta1": 0.85,
    "beta2": 0.99,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "a": {
        "activation": "relu2", "layers": 1, "heads": 4, "width": 16, "context": 8,
        "init_std": 0.02, "out_std": 0.0, "steps": 500, "optimizer": "adam", "rate": 0.01,
        "schedule": "cosine", "beta1": 0.9, "beta2": 0.95,
    },
    "b": {
        "activation": "relu", "layers": 1, "heads": 4, "width": 16, "context": 16,
        "init_std": 0.08, "out_std": 0.08, "steps": 1000, "optimizer": "adam", "rate": 0.01,
        "schedule": "linear", "beta1": 0.85, "beta2": 0.99,
    },
}  # fmt: skip
ENGINES = {"scalar": ("tape", "object"), "tensor": ("numpy", "torch")}  # the first is the default


def resolve(settings: ModelSettings, n_tokens: int | None = None) -> ModelSettings:
    """Nothing left None but what needs the vocabulary; impossible combinations refused.

    With `n_tokens` also the bigram's width, which by default is the vocabulary's size.
    """
    defaults = dict(BIGRAM if settings.model == "bigram" else PRESETS[settings.preset])
    mode = settings.mode or ("tensor" if settings.engine in ENGINES["tensor"] else "scalar")
    engine = settings.engine or ENGINES[mode][0]
    if engine not in ENGINES[mode]:
        choices = " or ".join(ENGINES[mode])
        raise ScalarError(f"--mode {mode} has no engine {engine}: choose {choices}")
    defaults |= {"mode": mode, "engine": engine}
    if settings.model == "bigram" and n_tokens:
        defaults["width"] = n_tokens
    if settings.eval_documents is None and engine == "object":
        defaults["eval_documents"] = 32
    missing = {
        f.name: defaults[f.name]
        for f in fields(settings)
        if f.name in defaults and getattr(settings, f.name) is None
    }
    full = replace(settings, **missing)
    _check(full)
    return full


def _check(s: ModelSettings) -> None:
    def refuse(name: str, limit: str) -> None:
        flag = name.replace("_", "-")
        raise ScalarError(f"--{flag} {getattr(s, name)}: it must be {limit}")

    for name in ("steps", "batch", "context"):
        if getattr(s, name) < 1:
            refuse(name, "1 or more")
    for name in ("rate", "init_std", "out_std", "decay"):
        if not 0 <= getattr(s, name) < float("inf"):
            refuse(name, "a number from 0 up")
    for name in ("beta1", "beta2", "held_out"):
        if not 0 <= getattr(s, name) < 1:
            refuse(name, "at least 0 and below 1")


def shape_of(s: ModelSettings, n_tokens: int) -> Shape:
    """The model that resolved settings describe, for a vocabulary of n_tokens."""
    names = {f.name for f in fields(Shape)} - {"n_tokens"}
    return Shape(n_tokens=n_tokens, **{name: getattr(s, name) for name in names})
