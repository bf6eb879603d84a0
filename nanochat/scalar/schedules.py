"""The learning rate over time: constant, linear, cosine or 1-sqrt. Called once a step by training.

>>> [round(rate_at("linear", 0.1, step, 4), 3) for step in range(4)]
[0.1, 0.075, 0.05, 0.025]
"""

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine", "1-sqrt"]


def rate_at(schedule: Schedule, rate: float, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: `rate` at first, falling towards 0."""
    if schedule == "linear":
        return rate * (1 - step / steps)
    if schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * step / steps))
    if schedule == "1-sqrt":
        return rate * (1 - math.sqrt(step / steps))
    return rate
