"""The bigram: guess the next character from the last one alone.

Two ways to know one: learn it with gradients (`next_scores`, the simplest model of the lab), or
count (`CountBigram`, the baseline every learned model has to beat). Numbers may be Values or
Nodes: anything with + * ** exp log.
Read: linear -> softmax -> normalise -> next_scores -> CountBigram. V vocabulary, C width.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

Number = Any  # a Value or a Node
Vector = list[Number]


# @learn:foundations.dot_product
def linear(x: Sequence[Number], matrix: Sequence[Sequence[Number]]) -> Vector:
    """One sum of products for each row of the matrix."""
    return [sum(w * xi for w, xi in zip(row, x, strict=True)) for row in matrix]


# @learn:foundations.softmax
def softmax(scores: Sequence[Number]) -> Vector:
    """Scores become probabilities: positive, and they add up to 1."""
    shift = type(scores[0]).minus_max(scores)  # exp(800) overflows; exp(0) cannot
    powers = [(score + shift).exp() for score in scores]
    total = sum(powers)
    return [power / total for power in powers]


def normalise(x: Sequence[Number]) -> Vector:
    """RMSNorm: scale a vector so that its numbers are about 1 in size."""
    scale = (sum(xi * xi for xi in x) / len(x) + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def next_scores(x: Sequence[Number], weights: dict[str, list[list[Number]]], norm: bool) -> Vector:
    """A score for every next token (V,) from the embedding x (C,) of the last one.

    Without a head of its own the embedding scores too; then a after b is as likely as b after a.
    """
    return linear(normalise(x) if norm else x, weights.get("head", weights["token"]))


# @learn:foundations.probability
class CountBigram:
    """How often each token followed each other one, plus `smoothing` (Laplace) for the unseen.

    >>> counts = CountBigram(3, [[0, 1, 2, 1, 0]])
    >>> round(counts.probability(1, 2), 3)  # 1 was followed by 2 once, by 0 once, by 1 never
    0.4
    """

    def __init__(
        self, n_tokens: int, documents: Sequence[Sequence[int]], smoothing: float = 1.0
    ) -> None:
        self.counts = [[smoothing] * n_tokens for _ in range(n_tokens)]
        for document in documents:
            for token, following in pairwise(document):
                self.counts[token][following] += 1
        self.totals = [sum(row) for row in self.counts]

    def probability(self, token: int, following: int) -> float:
        return self.counts[token][following] / self.totals[token]

    def surprises(self, document: Sequence[int]) -> list[float]:
        """-log of the probability of every token after the first, in nats."""
        pairs = pairwise(document)
        return [-math.log(self.probability(token, following)) for token, following in pairs]
