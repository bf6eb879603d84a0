"""Four ways to compute the same loss and gradient; here the two that work on single numbers.

    object   a Value for every number: slow, the truth
    tape     recorded once, replayed in C (same bits) or numpy (within 1e-12)
    numpy    whole matrices, gradients worked out by hand (tensor_numpy.py)
    torch    whole matrices, torch's autograd (tensor_torch.py)

All read parameters from one flat float64 array and add to one flat gradient.
Read: Engine -> ObjectEngine -> TapeEngine -> make_engine. P parameters, V vocabulary.
"""

import ctypes
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from nanochat.scalar import minigpt
from nanochat.scalar.errors import ScalarError
from nanochat.scalar.rows import Program
from nanochat.scalar.shape import Shape
from nanochat.scalar.tape import Backend, Tape, compile_rows, library_for
from nanochat.scalar.value import Value, no_collector

EngineName = Literal["object", "tape", "numpy", "torch"]
MOST_ROWS = 40_000_000  # a recording takes about a microsecond and 100 bytes for each


class Engine(Protocol):
    """`document` is a list of tokens; each after the first is predicted from those before it."""

    def gradient(
        self, parameters: np.ndarray, document: Sequence[int], gradient: np.ndarray, seed: float
    ) -> float:
        """The mean surprise in nats; adds seed * its derivative to `gradient` (P,)."""
        ...

    def loss(self, parameters: np.ndarray, document: Sequence[int]) -> float: ...

    def scores(self, parameters: np.ndarray, tokens: Sequence[int]) -> list[float]:
        """A score for every token (V,) that may come after `tokens`."""
        ...


class ObjectEngine:
    """The graph of Values, built anew for every document."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._values = [Value(0.0) for _ in range(shape.n_parameters)]
        self._weights = shape.as_rows(self._values)

    def _loss(self, parameters: np.ndarray, document: Sequence[int]) -> Value:
        for value, number in zip(self._values, parameters.tolist(), strict=True):
            value.data = number
        scores = minigpt.all_scores(document[:-1], self._shape, self._weights)
        pairs = zip(scores, document[1:], strict=True)
        return minigpt.mean_surprise([minigpt.surprise(row, target) for row, target in pairs])

    def gradient(
        self, parameters: np.ndarray, document: Sequence[int], gradient: np.ndarray, seed: float
    ) -> float:
        """Loss of a document; adds `seed` times its gradient to `gradient`."""
        for value, number in zip(self._values, gradient.tolist(), strict=True):
            value.grad = number
        with no_collector():
            try:
                loss = self._loss(parameters, document)
            except (ArithmeticError, ValueError):  # Python raises where libm gives inf or nan
                return math.nan
            loss.backward(seed)
        gradient[:] = [value.grad for value in self._values]
        return loss.data

    def loss(self, parameters: np.ndarray, document: Sequence[int]) -> float:
        with no_collector():
            return self._loss(parameters, document).data

    def scores(self, parameters: np.ndarray, tokens: Sequence[int]) -> list[float]:
        """Scores of the token after `tokens`."""
        for value, number in zip(self._values, parameters.tolist(), strict=True):
            value.data = number
        *_, last = minigpt.all_scores(tokens, self._shape, self._weights)
        return [score.data for score in last]


class TapeEngine:
    """One recording of the longest document; one program for every length that comes up.

    The tokens and targets of a document are picks, so a program serves all documents of a length.
    """

    def __init__(self, shape: Shape, longest: int, backend: Backend, cache: Path | None) -> None:
        estimate = 2 * longest * (shape.n_parameters + longest * shape.width * shape.layers)
        if estimate > MOST_ROWS:
            raise ScalarError(
                f"about {estimate:,} operations a document, limit {MOST_ROWS:,} for the tape:"
                " make the context, width or layers smaller, or use --mode tensor"
            )
        self.library: ctypes.CDLL | None = library_for(backend, cache)
        tape = Tape()
        weights = shape.as_rows(tape.parameters(shape.n_parameters))
        self._n_picks = 2 * longest
        tokens = [tape.new_pick() for _ in range(longest)]
        targets = [tape.new_pick() for _ in range(longest)]
        scores = list(minigpt.all_scores(tokens, shape, weights))
        surprises = [minigpt.surprise(row, t) for row, t in zip(scores, targets, strict=True)]
        means = [minigpt.mean_surprise(surprises[: n + 1]) for n in range(longest)]
        self._scores = [[node.index for node in row] for row in scores]
        self._losses = [node.index for node in means]
        self._rows = tape.rows()
        self._loss_programs: dict[int, Program] = {}
        self._score_programs: dict[int, Program] = {}

    def _picks(self, tokens: Sequence[int], targets: Sequence[int]) -> np.ndarray:
        picks = np.zeros(self._n_picks, np.int32)
        picks[: len(tokens)] = tokens
        picks[self._n_picks // 2 : self._n_picks // 2 + len(targets)] = targets
        return picks

    def _run(self, parameters: np.ndarray, document: Sequence[int]) -> tuple[Program, float]:
        n = len(document) - 1
        if n not in self._loss_programs:
            self._loss_programs[n] = compile_rows(self._rows, [self._losses[n - 1]], self.library)
        program = self._loss_programs[n]
        picks = self._picks(document[:-1], document[1:])
        return program, float(program.forward(parameters, (), picks)[0])

    def gradient(
        self, parameters: np.ndarray, document: Sequence[int], gradient: np.ndarray, seed: float
    ) -> float:
        program, loss = self._run(parameters, document)
        program.backward(gradient, seed)
        return loss

    def loss(self, parameters: np.ndarray, document: Sequence[int]) -> float:
        return self._run(parameters, document)[1]

    def scores(self, parameters: np.ndarray, tokens: Sequence[int]) -> list[float]:
        """Scores of the token after `tokens`; a program for each length is kept."""
        n = len(tokens)
        if n not in self._score_programs:
            rows = self._scores[n - 1]
            self._score_programs[n] = compile_rows(self._rows, rows, self.library, gradient=False)
        return self._score_programs[n].forward(parameters, (), self._picks(tokens, ())).tolist()


def make_engine(
    name: EngineName,
    shape: Shape,
    longest: int,
    backend: Backend = "auto",
    cache: Path | None = None,
    device: str = "cpu",
    dtype: str = "float64",
) -> Engine:
    """The engine called `name`. `longest`: most tokens predicted in one document."""
    if name == "object":
        return ObjectEngine(shape)
    if name == "tape":
        return TapeEngine(shape, longest, backend, cache)
    if name == "numpy":
        from nanochat.scalar.tensor_numpy import NumpyEngine

        return NumpyEngine(shape)
    from nanochat.scalar.tensor_torch import TorchEngine  # torch takes seconds to import

    return TorchEngine(shape, device, dtype)
