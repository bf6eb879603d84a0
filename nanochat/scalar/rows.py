"""The written form of a computation on scalars: one row for each operation.

tape.py writes rows; tape_c.py and tape_numpy.py turn them into programs. Every row stands after
the rows it uses. Read: the operations -> Rows -> Program. N rows, P parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

# The operations, numbered as in tape.h. `left` and `right` are rows unless the comment says more.
PARAMETER = 0  # left: which parameter
INPUT = 1  # left: which input
CONSTANT = 2  # left: which constant
ADD = 3
MUL = 4
POW = 5  # right: which constant is the exponent
EXP = 6
LOG = 7
RELU = 8
TANH = 9
PICK = 10  # left: start of its options in `lists` (a count, then rows); right: which pick
DROP = 11  # minus the maximum, without a gradient; left: start of its rows in `lists`


@dataclass(frozen=True)
class Rows:
    """A finished recording as flat arrays: what both kinds of program are compiled from."""

    ops: np.ndarray  # (N,) uint8
    left: np.ndarray  # (N,) int32
    right: np.ndarray  # (N,) int32
    lists: np.ndarray  # int32: the options of picks and drops, each list after its length
    constants: np.ndarray  # float64
    n_parameters: int
    n_inputs: int
    n_picks: int

    @cached_property
    def pick_limits(self) -> np.ndarray:
        """How many options each pick has (n_picks,); the fewest if it is used more than once."""
        limits = np.full(self.n_picks, np.iinfo(np.int32).max)
        picks = self.ops == PICK
        np.minimum.at(limits, self.right[picks], self.lists[self.left[picks]])
        return limits

    def check_picks(self, picks: np.ndarray) -> None:
        if len(picks) and (picks.min() < 0 or (picks >= self.pick_limits).any()):
            raise IndexError(f"picks {picks} are not all in 0 .. {self.pick_limits - 1}")


class Program(Protocol):
    """What compile returns. Parameters and inputs are float64, picks are positions in options."""

    def forward(
        self,
        parameters: Sequence[float] | np.ndarray,
        inputs: Sequence[float] | np.ndarray = (),
        picks: Sequence[int] | np.ndarray = (),
    ) -> np.ndarray:
        """The values of the results that compile was given, in that order."""
        ...

    def backward(self, gradient: np.ndarray | None = None, seed: float = 1.0) -> np.ndarray:
        """Add seed * d(first result)/d(parameter) of the last forward to `gradient` (P,)."""
        ...
