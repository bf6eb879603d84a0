"""Record a computation on scalars once, replay it thousands of times.

A Tape hands out Nodes: the same operators as Value, but instead of computing they write one row
(operation, left, right) into three flat columns (rows.py). `compile` turns the rows below some
result into a program that computes it and its gradient: in C where there is a compiler (tape_c.py),
in numpy everywhere (tape_numpy.py). Both work from the rows alone, so any graph of scalars will do.

What may change from one replay to the next: parameters, inputs, and picks (which of several nodes
is meant: the row of a token, the probability of a target).
Read: Node -> Tape -> compile_rows.

    >>> tape = Tape()
    >>> x, y = tape.parameters(2)
    >>> program = tape.compile(x * y + x**2, backend="numpy")
    >>> program.forward([3.0, -2.0])
    array([3.])
    >>> program.backward()
    array([4., 3.])
"""

import ctypes
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from nanochat.scalar.rows import (
    ADD,
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
    TANH,
    Program,
    Rows,
)
from nanochat.scalar.tape_c import CProgram, library_or_none
from nanochat.scalar.tape_numpy import NumpyProgram
from nanochat.scalar.value import Arithmetic

Backend = Literal["auto", "c", "numpy"]


class Node(Arithmetic):
    """One row of a tape; combine Nodes with each other and with numbers as if they were Values."""

    __slots__ = ("index", "tape")

    def __init__(self, tape: "Tape", index: int) -> None:
        self.tape = tape
        self.index = index

    def __repr__(self) -> str:
        return f"Node({self.index})"

    def __add__(self, other: "Node | float") -> "Node":
        return self.tape.record(ADD, self.index, self.tape.node(other).index)

    def __mul__(self, other: "Node | float") -> "Node":
        return self.tape.record(MUL, self.index, self.tape.node(other).index)

    def __pow__(self, k: float) -> "Node":
        return self.tape.record(POW, self.index, self.tape.constant_number(k))

    def exp(self) -> "Node":
        return self.tape.record(EXP, self.index)

    def log(self) -> "Node":
        return self.tape.record(LOG, self.index)

    def relu(self) -> "Node":
        return self.tape.record(RELU, self.index)

    def tanh(self) -> "Node":
        return self.tape.record(TANH, self.index)

    @staticmethod
    def minus_max(nodes: Sequence["Node"]) -> "Node":
        """Minus the largest, worked out again at each replay; no gradient flows."""
        return nodes[0].tape.record(DROP, nodes[0].tape.list_of(nodes))

    @staticmethod
    def pick(options: Sequence["Node"], which: int) -> "Node":
        """The option that pick number `which` (see Tape.new_pick) names at replay time."""
        return options[0].tape.record(PICK, options[0].tape.list_of(options), which)


# @learn:foundations.computation_graphs
class Tape:
    """The recorder. Memory: 9 bytes a row."""

    def __init__(self) -> None:
        self.ops = array("B")
        self.left = array("i")
        self.right = array("i")
        self.lists = array("i")
        self.constants: list[float] = []
        self.n_parameters = self.n_inputs = self.n_picks = 0
        self._constant_numbers: dict[str, int] = {}
        self._constant_nodes: dict[int, Node] = {}
        self._lists_seen: dict[tuple[int, ...], int] = {}

    def __len__(self) -> int:
        return len(self.ops)

    def record(self, op: int, left: int, right: int = 0) -> Node:
        """Append one operation; returns its node."""
        self.ops.append(op)
        self.left.append(left)
        self.right.append(right)
        return Node(self, len(self.ops) - 1)

    def parameters(self, count: int) -> list[Node]:
        """`count` more numbers to learn; programs give a gradient for each."""
        first, self.n_parameters = self.n_parameters, self.n_parameters + count
        return [self.record(PARAMETER, number) for number in range(first, self.n_parameters)]

    def input(self) -> Node:
        """A number that is given anew at each replay; it gets no gradient."""
        self.n_inputs += 1
        return self.record(INPUT, self.n_inputs - 1)

    def new_pick(self) -> int:
        """A choice that is made anew at each replay; give it to Node.pick, as often as needed."""
        self.n_picks += 1
        return self.n_picks - 1

    def node(self, number: "Node | float") -> Node:
        """A Node as it is; a plain number as a constant, each different one recorded once."""
        if isinstance(number, Node):
            assert number.tape is self, "nodes of two tapes can't be mixed"
            return number
        which = self.constant_number(number)
        if which not in self._constant_nodes:
            self._constant_nodes[which] = self.record(CONSTANT, which)
        return self._constant_nodes[which]

    def constant_number(self, number: float) -> int:
        """The number of a constant, each value kept once."""
        key = float(number).hex()  # tells 0.0 from -0.0
        if key not in self._constant_numbers:
            self._constant_numbers[key] = len(self.constants)
            self.constants.append(float(number))
        return self._constant_numbers[key]

    def list_of(self, nodes: Sequence[Node]) -> int:
        """Where the list of these nodes begins, each list kept once."""
        rows = tuple(node.index for node in nodes)
        assert rows, "a pick or a maximum needs at least one option"
        if rows not in self._lists_seen:
            self._lists_seen[rows] = len(self.lists)
            self.lists.append(len(rows))
            self.lists.extend(rows)
        return self._lists_seen[rows]

    def rows(self) -> Rows:
        """A copy of what was recorded so far."""
        return Rows(
            np.array(self.ops, np.uint8),
            np.array(self.left, np.int32),
            np.array(self.right, np.int32),
            np.array(self.lists, np.int32),
            np.array(self.constants, np.float64),
            self.n_parameters,
            self.n_inputs,
            self.n_picks,
        )

    def compile(
        self,
        results: Node | Sequence[Node],
        backend: Backend = "auto",
        cache: Path | None = None,
        gradient: bool = True,
    ) -> Program:
        """A program for some results; gradients, if wanted at all, are those of the first one.

        `cache` is the folder for the compiled C library, needed unless backend is "numpy".
        """
        wanted = [results] if isinstance(results, Node) else list(results)
        indexes = [node.index for node in wanted]
        return compile_rows(self.rows(), indexes, library_for(backend, cache), gradient)


def library_for(backend: Backend, cache: Path | None) -> ctypes.CDLL | None:
    """The C library to replay with, or None for numpy."""
    return None if backend == "numpy" else library_or_none(cache, required=backend == "c")


def compile_rows(
    rows: Rows, results: Sequence[int], library: ctypes.CDLL | None, gradient: bool = True
) -> Program:
    """As Tape.compile, for rows taken once and used for several programs."""
    if library is None:
        return NumpyProgram(rows, results, gradient)
    return CProgram(rows, results, library, gradient)
