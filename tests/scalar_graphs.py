"""What the scalar lab's tests share: one compiled C library, and random graphs of scalars.

Graphs are made of leaves of any kind that has + - * / ** exp log relu tanh: Values, Nodes, tensors.
A graph depends on the random generator alone, so generators in the same state give the same graph.
"""

import atexit
import functools
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any


@functools.cache
def library_folder() -> Path:
    """A folder for the C library, so that one test session compiles it once."""
    folder = Path(tempfile.mkdtemp(prefix="scalar-library-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def random_graph(rng: random.Random, leaves: list[Any], size: int = 0, picks: Any = None) -> Any:
    """One result made of up to 60 operations; values stay of moderate size.

    `picks(options)` chooses one of several nodes and `drops(nodes)` is minus their maximum;
    without picks neither is used.
    """
    nodes = list(leaves)
    for _ in range(size or rng.randint(1, 60)):
        a = rng.choice(nodes[-12:] if rng.random() < 0.7 else nodes)
        b = rng.choice(nodes)
        nodes.append(_operation(rng, nodes, a, b, picks))
    return sum(nodes[-5:]) * 0.2


def _operation(rng: random.Random, nodes: list[Any], a: Any, b: Any, picks: Any) -> Any:
    kind = rng.randrange(14 if picks else 12)
    some = [rng.choice(nodes) for _ in range(rng.randint(2, 6))]
    if kind < 3:
        return (a + b) * 0.5
    if kind == 3:
        return (a - b) * 0.5
    if kind == 4:
        return (a * b).tanh()
    if kind == 5:
        return (a * a + 1.0) ** -0.5
    if kind == 6:
        return (a.tanh() * 0.5).exp() * 0.5
    if kind == 7:
        return (a * a + 0.5).log()
    if kind == 8:
        return a.relu() + b * 0.1
    if kind == 9:
        return a / (b * b + 1.0)
    if kind < 12:  # a sum of products, as in a neuron
        return (sum(x * y for x, y in zip(some, reversed(some), strict=True)) * 0.1).tanh()
    if kind == 12:
        return picks(some)
    return (a + type(a).minus_max([a, *some])).exp()
