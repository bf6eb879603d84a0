"""One seed, several streams of random numbers that can't disturb each other.

Every draw in the lab comes from a named stream, a random.Random seeded with `seed XOR constant`.
So one more draw in one place (a longer sample, say) leaves all others as they were.

    stream   constant            used for
    split    ad1a64057f9ab34f    which documents are held out
    init     bb54068aea85faa7    the first weights
    order    3eeb7e96e59ce40f    the order of documents, shuffled anew for every pass
    sample   af2bdbe1aa9b6ec1    drawing new text

The constant of a stream is the first 8 bytes of the SHA-256 of its name: nothing to choose.
With parity there is one stream, seeded with the seed itself, drawn from in microgpt.py's order.
"""

import random
from collections.abc import Mapping
from typing import Any

from nanochat.scalar.errors import ScalarError

CONSTANTS = {
    "split": 0xAD1A64057F9AB34F,
    "init": 0xBB54068AEA85FAA7,
    "order": 0x3EEB7E96E59CE40F,
    "sample": 0xAF2BDBE1AA9B6EC1,
}
LARGEST_SEED = 2**63 - 1


# @learn:foundations.random_seeds
class Streams:
    """The random streams of one run: `streams["init"].gauss(0, 1)`."""

    def __init__(self, seed: int, parity: bool = False) -> None:
        if not 0 <= seed <= LARGEST_SEED:
            raise ScalarError(f"seed {seed} is not in 0 .. 2**63 - 1: choose another")
        one = random.Random(seed)
        self._streams = {
            name: one if parity else random.Random(seed ^ constant)
            for name, constant in CONSTANTS.items()
        }

    def __getitem__(self, name: str) -> random.Random:
        return self._streams[name]

    def state(self) -> dict[str, Any]:
        """Where every stream stands, as JSON can hold it."""
        return {name: stream.getstate() for name, stream in self._streams.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, (version, numbers, gauss) in state.items():
            self._streams[name].setstate((version, tuple(numbers), gauss))
