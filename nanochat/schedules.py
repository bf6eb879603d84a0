"""How the learning rate, Muon's momentum and the weight decay change over a run.

Called by train_loop.py at every step. All are plain functions of the step, so a resumed run
continues exactly where it stopped.
"""

import math
from dataclasses import dataclass


# @learn:optimization.learning_rate_schedule
@dataclass(frozen=True)
class Schedule:
    """The shape of a run of `steps` optimizer steps."""

    steps: int
    warmup_steps: int = 40  # the rate rises in a line
    warmdown_share: float = 0.65  # and falls in a line over this last share of the run
    final_lr_share: float = 0.05  # down to this share
    momentum_start: float = 0.85  # Muon's momentum begins here,
    momentum_peak: float = 0.97  # arrives here after
    momentum_warmup_steps: int = 400  # at most half of the run
    momentum_end: float = 0.90  # and ends here, falling with the learning rate

    # @learn:optimization.learning_rate_schedule
    def lr_scale(self, step: int) -> float:
        """The factor on every learning rate at `step` (0 is the first).

        >>> [round(Schedule(100, 10).lr_scale(s), 3) for s in (0, 9, 20, 99)]
        [0.1, 1.0, 1.0, 0.065]
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return 1 - (1 - self.final_lr_share) * self._warmdown(step)

    # @learn:optimization.momentum
    def momentum(self, step: int) -> float:
        """Muon's momentum at `step`."""
        warmup = min(self.momentum_warmup_steps, self.steps // 2)
        rising = min(1.0, step / max(1, warmup))
        peak = self.momentum_start + rising * (self.momentum_peak - self.momentum_start)
        return peak + self._warmdown(step) * (self.momentum_end - peak)

    def decay_scale(self, step: int) -> float:
        """The factor on Muon's weight decay: a cosine from 1 to 0."""
        return 0.5 * (1 + math.cos(math.pi * step / max(1, self.steps)))

    def _warmdown(self, step: int) -> float:
        """0 before the warmdown, 1 at the end of the run."""
        length = round(self.warmdown_share * self.steps)
        return min(1.0, max(0.0, 1 - (self.steps - step) / length)) if length else 0.0
