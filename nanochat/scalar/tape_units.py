"""What tape_numpy.py makes programs of: rows fused into units, sorted by depth.

A chain of additions ((0 + a*b) + c*d) + e is one unit with the terms (a,b) (c,d) (e): its parts are
used nowhere else, so nothing can tell the difference. (build.c does the same for the C replay.)
Read: count_uses -> Units -> depths. N rows, U units, T terms.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from nanochat.scalar.rows import ADD, CONSTANT, DROP, MUL, PICK, Rows

NONE = -1


def options(rows: Rows, row: int) -> np.ndarray:
    """The rows a pick chooses from, or a maximum is taken of."""
    start = rows.left[row] + 1
    return rows.lists[start : start + rows.lists[start - 1]]


def count_uses(rows: Rows, results: Sequence[int]) -> np.ndarray:
    """How often each row is used below the results (N,); results and options count twice."""
    ops, left, right = rows.ops.tolist(), rows.left.tolist(), rows.right.tolist()
    uses = [0] * len(ops)
    for row in results:
        uses[row] += 2
    for i in range(max(results), -1, -1):
        op = ops[i]
        if op < ADD or not uses[i]:
            continue
        if op >= PICK:
            for row in options(rows, i).tolist():
                uses[row] += 2
            continue
        uses[left[i]] += 1
        if op <= MUL:
            uses[right[i]] += 1
    return np.array(uses)


class Units:
    """What remains of the rows when sums swallow the additions and products only they use."""

    def __init__(self, rows: Rows, results: Sequence[int]) -> None:
        self.rows = rows
        uses = count_uses(rows, results)
        owner = self._owners(uses)  # (N,) the row that swallowed each row, itself if none
        whole = (uses > 0) & (owner == np.arange(len(owner))) & (rows.ops >= ADD)
        self.row_of = np.flatnonzero(whole)  # (U,)
        self.unit_of = np.full(len(owner), NONE)
        self.unit_of[self.row_of] = np.arange(len(self.row_of))
        self.ops = rows.ops[self.row_of]
        self._find_terms(uses, owner)

    def _owners(self, uses: np.ndarray) -> np.ndarray:
        ops, left, right = self.rows.ops, self.rows.left, self.rows.right
        owner = np.arange(len(ops))
        adds = np.flatnonzero((ops == ADD) & (uses > 0))
        by_left = adds[(uses[left[adds]] == 1) & np.isin(ops[left[adds]], (ADD, MUL))]
        by_right = adds[(uses[right[adds]] == 1) & (ops[right[adds]] == MUL)]
        owner[left[by_left]] = by_left
        owner[right[by_right]] = by_right
        while (owner != owner[owner]).any():  # a chain of n additions takes log n rounds
            owner = owner[owner]
        return owner

    def _find_terms(self, uses: np.ndarray, owner: np.ndarray) -> None:
        """unit, x and y of every term (T,), sorted by unit; y is NONE for a plain term."""
        ops, left, right = self.rows.ops, self.rows.left, self.rows.right
        adds = np.flatnonzero((ops == ADD) & (uses > 0))
        swallowed = owner != np.arange(len(owner))
        inner = swallowed[left[adds]] & (ops[left[adds]] == ADD)
        term = np.concatenate([left[adds[~inner]], right[adds]])
        unit = np.concatenate([owner[adds[~inner]], owner[adds]])
        zero = np.append(self.rows.constants == 0.0, False)
        kept = ~((ops[term] == CONSTANT) & zero[np.where(ops[term] == CONSTANT, left[term], -1)])
        term, unit = term[kept], unit[kept]
        product = swallowed[term]
        alone = self.row_of[self.ops == MUL]
        unit = self.unit_of[np.concatenate([unit, alone])]
        order = np.argsort(unit, kind="stable")
        x = np.concatenate([np.where(product, left[term], term), left[alone]])
        y = np.concatenate([np.where(product, right[term], NONE), right[alone]])
        self.unit, self.x, self.y = unit[order], x[order], y[order]
        self.first = np.searchsorted(self.unit, np.arange(len(self.row_of) + 1))

    def operands(self) -> list[list[int]]:
        """For each unit the units it is made of; options of picks and maxima included."""
        x, y = self.unit_of[self.x], np.where(self.y == NONE, NONE, self.unit_of[self.y])
        pairs, first = np.stack([x, y], axis=1).ravel().tolist(), (2 * self.first).tolist()
        found = [pairs[a:b] for a, b in pairwise(first)]
        for u in np.flatnonzero((self.ops > MUL) & (self.ops < PICK)).tolist():
            found[u] = [int(self.unit_of[self.rows.left[self.row_of[u]]])]
        for u in np.flatnonzero(self.ops >= PICK).tolist():
            found[u] = self.unit_of[options(self.rows, self.row_of[u])].tolist()
        return found


def depths(operands: list[list[int]]) -> np.ndarray:
    """For each unit, how many units deep what it needs is (U,): equal depth, independent work."""
    depth: list[int] = []
    for below in operands:
        depth.append(1 + max((depth[v] for v in below if v != NONE), default=-1))
    return np.array(depth, np.int64)


def depths_from(root: int, operands: list[list[int]], ops: np.ndarray) -> np.ndarray:
    """For each unit, the longest way down from the root that carries a gradient; NONE if none."""
    depth = [NONE] * len(operands)
    depth[root] = 0
    kinds = ops.tolist()
    for u in range(root, -1, -1):
        if depth[u] == NONE or kinds[u] == DROP:
            continue
        for v in operands[u]:
            if v != NONE and depth[v] <= depth[u] and kinds[v] != DROP:
                depth[v] = depth[u] + 1
    return np.array(depth, np.int64)


def groups(*keys: np.ndarray) -> Iterator[np.ndarray]:
    """Positions with equal keys, sorted by the first key, then the second ..."""
    order = np.lexsort(keys[::-1])
    ordered = np.stack([key[order] for key in keys])
    cuts = np.flatnonzero((ordered[:, 1:] != ordered[:, :-1]).any(axis=0)) + 1
    return (group for group in np.split(order, cuts) if len(group))
