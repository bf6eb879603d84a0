"""The shape of a model: which matrices it has, and where each stands in one flat list of numbers.

Every engine learns the same flat float64 array, so checkpoints, optimizers and comparisons need no
knowledge of the model. Read: Matrix -> Shape. V vocabulary, C width, P parameters.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np

from nanochat.scalar.errors import ScalarError

Model = Literal["bigram", "mini-gpt"]
Activation = Literal["relu", "relu2"]
N = TypeVar("N")


@dataclass(frozen=True)
class Matrix:
    name: str
    rows: int  # outputs
    columns: int  # inputs
    start: int  # of its first number in the flat list
    std: float  # spread of its first random numbers

    @property
    def stop(self) -> int:
        return self.start + self.rows * self.columns


@dataclass(frozen=True)
class Shape:
    """What a model is made of. A bigram is a mini-GPT without context: embedding and head only."""

    model: Model
    n_tokens: int  # vocabulary, the mark BOS included
    context: int  # longest document, in tokens
    width: int  # numbers for each token
    layers: int
    heads: int
    tie_head: bool  # score with the token embedding instead of a matrix of its own
    norm: bool  # RMSNorm at the input and before each block
    activation: Activation
    init_std: float
    out_std: float  # init_std for the matrices that write into the residual stream

    def __post_init__(self) -> None:
        for name in ("n_tokens", "context", "width", "heads"):
            if getattr(self, name) < 1:
                raise ScalarError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.layers < 0:
            raise ScalarError(f"layers is {self.layers}: it can't be negative")
        if self.width % self.heads:
            raise ScalarError(
                f"width {self.width} can't be split into {self.heads} heads: choose a divisor"
            )

    # @learn:foundations.tensors
    # @viz:guide.parameters
    @cached_property
    def matrices(self) -> dict[str, Matrix]:
        """Every matrix by name, in the order of the flat list and of the first random draws."""
        c = self.width
        sizes = [("token", self.n_tokens, c, self.init_std)]
        if self.model == "mini-gpt":
            sizes.append(("position", self.context, c, self.init_std))
        if not self.tie_head:
            sizes.append(("head", self.n_tokens, c, self.init_std))
        for layer in range(self.layers if self.model == "mini-gpt" else 0):
            for name, rows, columns, std in (
                ("query", c, c, self.init_std),
                ("key", c, c, self.init_std),
                ("value", c, c, self.init_std),
                ("mix", c, c, self.out_std),
                ("up", 4 * c, c, self.init_std),
                ("down", c, 4 * c, self.out_std),
            ):
                sizes.append((f"{layer}.{name}", rows, columns, std))
        found: dict[str, Matrix] = {}
        start = 0
        for name, rows, columns, std in sizes:
            found[name] = Matrix(name, rows, columns, start, std)
            start = found[name].stop
        return found

    @property
    def n_parameters(self) -> int:
        return list(self.matrices.values())[-1].stop

    def first_parameters(self, rng: random.Random) -> np.ndarray:
        """Random numbers (P,), one draw each in order; a spread of 0 draws too."""
        draws = [
            rng.gauss(0, m.std) for m in self.matrices.values() for _ in range(m.rows * m.columns)
        ]
        return np.array(draws, np.float64)

    def as_rows(self, numbers: Sequence[N]) -> dict[str, list[list[N]]]:
        """A flat list of any kind of number as matrices: lists of rows."""
        return {
            m.name: [list(numbers[i : i + m.columns]) for i in range(m.start, m.stop, m.columns)]
            for m in self.matrices.values()
        }

    # @learn:foundations.views_and_strides
    def as_arrays(self, flat: Any) -> dict[str, Any]:
        """A flat array or tensor (P,) as views (rows, columns)."""
        return {
            m.name: flat[m.start : m.stop].reshape(m.rows, m.columns)
            for m in self.matrices.values()
        }

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
