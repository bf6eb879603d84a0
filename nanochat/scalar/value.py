"""One number at a time: a float that remembers where it came from, and its derivative.

`Value` is the slow truth that every faster engine here is tested against. tape.py records the very
same operators and replays them.
Read: Arithmetic (what follows from + * **) -> Value -> backward -> no_collector.

    >>> x, y = Value(3.0), Value(-2.0)
    >>> z = x * y + x**2
    >>> z.backward()
    >>> z.data, x.grad, y.grad
    (3.0, 4.0, 3.0)
"""

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class Arithmetic:
    """The operators that follow from +, * and **. Value and tape.Node both get them from here."""

    __slots__ = ()

    def __neg__(self) -> Any:
        return self * -1  # type: ignore[operator]

    def __sub__(self, other: Any) -> Any:
        return self + (-other)  # type: ignore[operator]

    def __truediv__(self, other: Any) -> Any:
        return self * other**-1  # type: ignore[operator]

    def __radd__(self, other: float) -> Any:  # sum() begins with 0 + first
        return self + other  # type: ignore[operator]

    def __rmul__(self, other: float) -> Any:
        return self * other  # type: ignore[operator]

    def __rsub__(self, other: float) -> Any:
        return -self + other

    def __rtruediv__(self, other: float) -> Any:
        return self**-1 * other  # type: ignore[operator]


# @learn:foundations.derivatives
# @viz:guide.autograd
class Value(Arithmetic):
    """A float64 with a gradient. `inputs` are the Values it was made of, `slopes` d(self)/d(input).

    Exponents of ** are plain numbers. Not covered: x**y with y a Value (write (x.log() * y).exp()).
    """

    __slots__ = ("data", "grad", "inputs", "slopes")

    def __init__(
        self, data: float, inputs: tuple["Value", ...] = (), slopes: tuple[float, ...] = ()
    ) -> None:
        self.data = data
        self.grad = 0.0
        self.inputs = inputs
        self.slopes = slopes

    def __repr__(self) -> str:
        return f"Value({self.data!r}, grad={self.grad!r})"

    def __add__(self, other: "Value | float") -> "Value":
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    # @learn:foundations.derivatives
    def __mul__(self, other: "Value | float") -> "Value":
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, k: float) -> "Value":
        return Value(self.data**k, (self,), (k * self.data ** (k - 1),))

    def exp(self) -> "Value":
        y = math.exp(self.data)
        return Value(y, (self,), (y,))

    # @learn:foundations.logarithms
    def log(self) -> "Value":
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def relu(self) -> "Value":
        return Value(max(0.0, self.data), (self,), (1.0 if self.data > 0 else 0.0,))

    def tanh(self) -> "Value":
        y = math.tanh(self.data)
        return Value(y, (self,), (1.0 - y * y,))

    @staticmethod
    def minus_max(values: Sequence["Value"]) -> "Value":
        """Minus the largest, as a constant: exp(v + minus_max) can't overflow.

        Softmax does not change when every score moves alike, so no gradient need flow through it.
        """
        return Value(-max(value.data for value in values))

    @staticmethod
    def pick(options: Sequence["Value"], which: int) -> "Value":
        """options[which] as a value of its own, so that a tape can record the choice."""
        return Value(options[which].data, (options[which],), (1.0,))

    # @learn:foundations.backpropagation
    def backward(self, seed: float = 1.0) -> None:
        """Add seed * d(self)/d(v) to v.grad for every v below self; clear the gradients yourself.

        No recursion: a graph of a million values in one chain is fine. The order of additions is
        the depth-first one of microgpt.py, because another order changes the last bits.
        """
        self.grad += seed
        for value in reversed(self._inputs_first()):
            for source, slope in zip(value.inputs, value.slopes, strict=True):
                source.grad += slope * value.grad

    # @learn:foundations.computation_graphs
    def _inputs_first(self) -> "list[Value]":
        """Everything self was made of, each value after its inputs."""
        order: list[Value] = []
        seen: set[Value] = set()
        waiting: list[Value] = []  # values whose inputs are not all in `order` yet
        stack: list[Value | None] = [self]
        while stack:
            value = stack.pop()
            if value is None:  # the mark below the inputs of the last one waiting
                order.append(waiting.pop())
            elif value not in seen:
                seen.add(value)
                waiting.append(value)
                stack.append(None)
                stack += value.inputs[::-1]
        return order


@contextmanager
def no_collector() -> Iterator[None]:
    """Pause Python's search for cycles: graphs have none, and go when the last name for them goes.

    Left on, it looks at every Value again and again as a graph grows: at a million, ten times the
    cost for each.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
