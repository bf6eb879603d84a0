"""How well a model predicts documents it has never seen: nats per character, bits per byte.

Called by training.py; its time does not count as training time.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nanochat.scalar.text import CharTokenizer


@dataclass(frozen=True)
class Evaluation:
    """A character here is a predicted token: a letter or the end of the line."""

    nats_per_char: float
    interval95: float  # half the width of the 95% interval of nats_per_char, over documents
    bits_per_byte: float  # the end of a line counts as one byte
    documents: int
    characters: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# @learn:foundations.bits_per_byte
def evaluate(
    loss: Callable[[list[int]], float],
    documents: Sequence[list[int]],
    tokenizer: CharTokenizer,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """`loss` gives the mean surprise of a document in nats; `check` is called now and then."""
    lengths = np.array([len(document) - 1 for document in documents])
    totals = np.zeros(len(documents))
    for i, document in enumerate(documents):
        totals[i] = loss(document) * lengths[i]
        if i % 64 == 0:
            check()
    nats = totals.sum() / lengths.sum()
    # Characters of one document hang together, so documents are the independent units.
    spread = math.sqrt(((totals - nats * lengths) ** 2).sum() * _unbias(len(documents)))
    n_bytes = sum(tokenizer.bytes_of(document[1:]) for document in documents)
    return Evaluation(
        float(nats),
        float(1.96 * spread / lengths.sum()),
        float(totals.sum() / math.log(2) / n_bytes),
        len(documents),
        int(lengths.sum()),
    )


def _unbias(n: int) -> float:
    return n / (n - 1) if n > 1 else 1.0
