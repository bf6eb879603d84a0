"""Student's t, for intervals from a handful of seeds. Called by ablation.py.

>>> mean, half = interval([1.0, 2.0, 3.0], 0.95)
>>> round(mean, 3), round(half, 3)
(2.0, 2.484)
"""

import math
from collections.abc import Sequence

PIECES = 2000  # of the numerical integral; even


def within(t: float, freedom: int) -> float:
    """The probability that |T| < t for Student's T.

    With T = sqrt(freedom) * tan(angle) the density becomes a power of a cosine: Simpson's rule.
    """
    end = math.atan(t / math.sqrt(freedom))
    weights = [1, *(4 if i % 2 else 2 for i in range(1, PIECES)), 1]
    total = math.fsum(
        w * math.cos(end * i / PIECES) ** (freedom - 1) for i, w in enumerate(weights)
    )
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    return 2 * scale / math.sqrt(math.pi) * total * end / (3 * PIECES)


def t_quantile(confidence: float, freedom: int) -> float:
    """The t with P(|T| < t) = confidence, by bisection."""
    low, high = 0.0, 1.0
    while within(high, freedom) < confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < confidence else (low, middle)
    return high


def interval(values: Sequence[float], confidence: float) -> tuple[float, float | None]:
    """The mean and half the width of its confidence interval; None for a single value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return mean, t_quantile(confidence, n - 1) * spread
