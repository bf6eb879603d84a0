"""Replay a tape in numpy: nothing to compile, within 1e-12 of value.py.

Units (tape_units.py) of one depth don't need each other, so alike ones become one kernel: two
gathers, a product, a sum. The backward pass is the same kernel again: a gradient is a sum of
slopes times gradients.
Read: Sums -> Calls -> Plan -> NumpyProgram. B units side by side, K terms each, P parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanochat.scalar.rows import (
    CONSTANT,
    DROP,
    EXP,
    INPUT,
    LOG,
    MUL,
    PARAMETER,
    PICK,
    POW,
    RELU,
    Rows,
)
from nanochat.scalar.tape_units import NONE, Units, depths, depths_from, groups, options


@dataclass(frozen=True)
class Sums:
    """out[start + b] += sum over k of X[x[k, b]] * Y[y[k, b]]."""

    x: np.ndarray  # (K, B)
    y: np.ndarray  # (K, B)
    start: int
    buffer_x: np.ndarray  # (K, B)
    buffer_y: np.ndarray  # (K, B)

    def run(self, xs: np.ndarray, ys: np.ndarray, out: np.ndarray) -> None:
        """Multiply and add up all these rows at once."""
        xs.take(self.x, out=self.buffer_x, mode="clip")
        ys.take(self.y, out=self.buffer_y, mode="clip")
        np.multiply(self.buffer_x, self.buffer_y, out=self.buffer_x)
        piece = out[self.start : self.start + self.x.shape[1]]
        piece += self.buffer_x[0] if len(self.x) == 1 else np.add.reduce(self.buffer_x, axis=0)


def gather_sums(x: np.ndarray, y: np.ndarray, first: np.ndarray, count: int, start: int) -> Sums:
    """A kernel for B lists of `count` pairs; list b has its pairs at first[b] ... in x and y."""
    at = first + np.arange(count)[:, None]  # (K, B)
    return Sums(x[at], y[at], start, np.empty(at.shape), np.empty(at.shape))


@dataclass(frozen=True)
class Calls:
    """One function on B values: results from `start`, slopes from `slope_start`."""

    op: int
    operand: np.ndarray  # (B,)
    start: int
    slope_start: int
    exponent: float

    def run(self, values: np.ndarray) -> None:
        """Compute one function over all these rows, and its slopes."""
        x = values[self.operand]
        out = values[self.start : self.start + len(x)]
        slope = values[self.slope_start : self.slope_start + len(x)]
        if self.op == EXP:
            np.exp(x, out=out)
            slope[:] = out
        elif self.op == LOG:
            np.log(x, out=out)
            np.divide(1.0, x, out=slope)
        elif self.op == RELU:
            slope[:] = x > 0
            np.maximum(x, 0.0, out=out)
        elif self.op == POW:
            out[:] = x**self.exponent
            slope[:] = self.exponent * x ** (self.exponent - 1)
        else:
            np.tanh(x, out=out)
            slope[:] = 1 - out * out


@dataclass(frozen=True)
class Picks:
    """B choices; choice b has its options at first[b] ... in `slots`."""

    slots: np.ndarray
    first: np.ndarray  # (B,)
    which: np.ndarray  # (B,) number of the pick
    start: int

    def chosen(self, picks: np.ndarray) -> np.ndarray:
        return self.slots[self.first + picks[self.which]]


@dataclass(frozen=True)
class Drops:
    """Minus the maximum of each of B lists of K values."""

    operand: np.ndarray  # (K, B)
    start: int

    def run(self, values: np.ndarray) -> None:
        top = values[self.operand].max(axis=0)
        values[self.start : self.start + len(top)] = -top


class Plan:
    """Where every value and gradient stands, and the kernels that fill the places."""

    def __init__(self, rows: Rows, results: Sequence[int], gradient: bool) -> None:
        self.rows = rows
        self.units = Units(rows, results)
        self.one = rows.n_parameters + rows.n_inputs  # the place of the number one
        self.n_leaves = self.one + 1 + len(rows.constants)
        operands = self.units.operands()
        self.forward = self._plan_forward(depths(operands))
        self.backward: list[Sums | Picks] = []
        self.root = int(self.units.unit_of[results[0]])
        if gradient and self.root != NONE and self.units.ops[self.root] != DROP:
            self._plan_backward(depths_from(self.root, operands, self.units.ops))

    def _plan_forward(self, depth: np.ndarray) -> list[Sums | Calls | Picks | Drops]:
        rows, units = self.rows, self.units
        lengths = np.diff(units.first)
        is_sum = units.ops <= MUL
        extra = np.where(is_sum, lengths, rows.right[units.row_of] * (units.ops == POW))
        for u in np.flatnonzero(units.ops == DROP):
            extra[u] = len(options(rows, units.row_of[u]))
        batches = list(groups(depth, np.where(is_sum, MUL, units.ops), extra))
        self.slot = self._leaf_slots()
        n_units, at = len(units.row_of), self.n_leaves
        for batch in batches:
            self.slot[units.row_of[batch]] = at + np.arange(len(batch))
            at += len(batch)
        self.n_values = at + n_units  # slopes stand behind the values, in the same order
        self.slope = self.slot[units.row_of] + n_units  # (U,)
        self.x = self.slot[units.x]  # (T,)
        self.y = np.where(units.y == NONE, self.one, self.slot[units.y])  # (T,)
        return [
            self._forward_kernel(batch)
            for batch in batches
            if units.ops[batch[0]] > MUL or extra[batch[0]]
        ]

    def _leaf_slots(self) -> np.ndarray:
        rows = self.rows
        before = {PARAMETER: 0, INPUT: rows.n_parameters, CONSTANT: self.one + 1}
        slot = np.full(len(rows.ops), NONE)
        for op, first in before.items():
            slot[rows.ops == op] = first + rows.left[rows.ops == op]
        return slot

    def _forward_kernel(self, batch: np.ndarray) -> Sums | Calls | Picks | Drops:
        rows, units = self.rows, self.units
        row, op = units.row_of[batch], int(units.ops[batch[0]])
        start = int(self.slot[row[0]])
        if op <= MUL:
            first = units.first[batch]
            count = int(units.first[batch[0] + 1] - first[0])
            return gather_sums(self.x, self.y, first, count, start)
        if op == PICK:
            return Picks(self.slot[rows.lists], rows.left[row] + 1, rows.right[row], start)
        if op == DROP:
            return Drops(self.slot[np.stack([options(rows, r) for r in row], axis=1)], start)
        exponent = float(rows.constants[rows.right[row[0]]]) if op == POW else 0.0
        return Calls(op, self.slot[rows.left[row]], start, int(self.slope[batch[0]]), exponent)

    def _members(self, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every contribution to a gradient: the row it goes to, its slope's slot, its unit."""
        rows, units = self.rows, self.units
        both = units.y != NONE
        calls = np.flatnonzero((units.ops > MUL) & (units.ops < PICK))
        to = np.concatenate([units.x, units.y[both], rows.left[units.row_of[calls]]])
        slope = np.concatenate([self.y, self.x[both], self.slope[calls]])
        unit = np.concatenate([units.unit, units.unit[both], calls])
        wanted = (depth[unit] != NONE) & (self.grad[to] != NONE)
        return to[wanted], slope[wanted], unit[wanted]

    def _plan_backward(self, depth: np.ndarray) -> None:
        rows, units = self.rows, self.units
        last = depth.max() + 1
        parameters = np.flatnonzero(rows.ops == PARAMETER)
        reached = np.flatnonzero(depth != NONE)
        to_row = np.concatenate([parameters, units.row_of[reached]])
        to_depth = np.concatenate([np.full(len(parameters), last), depth[reached]])
        self.grad = np.full(len(rows.ops), NONE)  # the place of each row's gradient
        self.grad[to_row] = 0
        member_row, slope, unit = self._members(depth)
        order = np.argsort(member_row, kind="stable")
        slope, source = slope[order], units.row_of[unit[order]]
        first = np.searchsorted(member_row[order], to_row)
        count = np.searchsorted(member_row[order], to_row, side="right") - first
        batches = list(groups(to_depth, count))
        self.n_grads = len(to_row) + 1  # the last place takes what leads nowhere
        self.grad[to_row[np.concatenate(batches)]] = np.arange(len(to_row))
        self.parameter_grads = self.grad[parameters]
        self.parameter_numbers = rows.left[parameters]
        kernels: list[tuple[int, int, Sums | Picks]] = []  # depth, picks after sums, kernel
        for batch in batches:
            n, start = int(count[batch[0]]), int(self.grad[to_row[batch[0]]])
            if n:
                kernel = gather_sums(slope, self.grad[source], first[batch], n, start)
                kernels.append((int(to_depth[batch[0]]), 0, kernel))
        for u in reached[units.ops[reached] == PICK]:
            kernels.append((int(depth[u]), 1, self._pick_back(units.row_of[u])))
        self.backward = [kernel for *_, kernel in sorted(kernels, key=lambda k: k[:2])]

    def _pick_back(self, row: int) -> Picks:
        """The gradient of one pick goes to the option it chose."""
        slots = np.where(
            self.grad[options(self.rows, row)] == NONE,
            self.n_grads - 1,
            self.grad[options(self.rows, row)],
        )
        which = self.rows.right[row : row + 1]
        return Picks(slots, np.zeros(1, np.int64), which, int(self.grad[row]))


class NumpyProgram:
    """A rows.Program in numpy."""

    def __init__(self, rows: Rows, results: Sequence[int], gradient: bool = True) -> None:
        self._rows, self._gradient = rows, gradient
        self._plan = plan = Plan(rows, results, gradient)
        self._values = np.zeros(plan.n_values)
        self._values[plan.one] = 1.0
        self._values[plan.one + 1 : plan.n_leaves] = rows.constants
        self._results = plan.slot[list(results)]
        self._root_row = results[0]
        self._picks = np.zeros(rows.n_picks, np.int64)

    def forward(
        self,
        parameters: Sequence[float] | np.ndarray,
        inputs: Sequence[float] | np.ndarray = (),
        picks: Sequence[int] | np.ndarray = (),
    ) -> np.ndarray:
        plan, values = self._plan, self._values
        self._picks[:] = picks
        self._rows.check_picks(self._picks)
        values[: self._rows.n_parameters] = parameters
        values[self._rows.n_parameters : plan.one] = inputs
        values[plan.n_leaves :] = 0.0
        for kernel in plan.forward:
            if isinstance(kernel, Sums):
                kernel.run(values, values, values)
            elif isinstance(kernel, Picks):
                chosen = kernel.chosen(self._picks)
                values[kernel.start : kernel.start + len(chosen)] = values[chosen]
            else:
                kernel.run(values)
        return values[self._results]

    def backward(self, gradient: np.ndarray | None = None, seed: float = 1.0) -> np.ndarray:
        plan, rows = self._plan, self._rows
        assert self._gradient, "compiled without a gradient"
        if gradient is None:
            gradient = np.zeros(rows.n_parameters)
        if rows.ops[self._root_row] == PARAMETER:
            gradient[rows.left[self._root_row]] += seed
        if not plan.backward:
            return gradient
        grads = np.zeros(plan.n_grads)
        grads[plan.grad[self._root_row]] = seed
        for kernel in plan.backward:
            if isinstance(kernel, Sums):
                kernel.run(self._values, grads, grads)
            else:
                np.add.at(grads, kernel.chosen(self._picks), grads[kernel.start])
        gradient[plan.parameter_numbers] += grads[plan.parameter_grads]
        return gradient
