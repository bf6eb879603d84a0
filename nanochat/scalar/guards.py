"""What stops a run before it does harm: leaking memory, a loss that is no number, bad requests.

Read: MemoryDriftGuard -> check_loss -> check_sampling -> check_prompt.
"""

import math
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from nanochat.scalar.errors import ScalarError
from nanochat.scalar.settings import SampleSettings

STATM = Path("/proc/self/statm")
NOISE_BYTES = 32 * 2**20  # allocators come and go by less than this


class MemoryDrift(ScalarError):
    """Memory grew more than a run can need."""


class Diverged(ScalarError):
    """The loss is not a number any more."""


class BadRequest(ScalarError):
    """A sampling setting or a prompt that can't be served."""


def resident_bytes() -> int:
    """Memory this process holds now; where Linux' /proc is missing, the most it ever held."""
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


class MemoryDriftGuard:
    """Call `check` now and then; it raises when memory is `ratio` times that of a recent check.

    Recent: the last `window` checks. Growth below 32 MiB is noise.
    """

    def __init__(
        self, window: int = 16, ratio: float = 1.5, measure: Callable[[], int] = resident_bytes
    ) -> None:
        if window < 2 or not ratio >= 1:
            raise ScalarError(f"window {window}, ratio {ratio}: use 2 or more and 1 or more")
        self.ratio = ratio
        self._measure = measure
        self._recent: deque[int] = deque(maxlen=window)

    def check(self, where: str) -> None:
        """Raise MemoryDrift when memory has grown beyond its factor."""
        self._recent.append(self._measure())
        least, now = min(self._recent), self._recent[-1]
        if now > least * self.ratio and now - least > NOISE_BYTES:
            raise MemoryDrift(
                f"memory grew from {least >> 20} to {now >> 20} MiB at {where}, limit a factor of"
                f" {self.ratio}: something leaks; if not, raise --memory-ratio"
            )


def check_loss(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss} at step {step}: lower --rate or --init-std")
    return loss


def check_sampling(s: SampleSettings) -> None:
    """Refuse settings that no distribution can be drawn with."""
    if not 0 < s.temperature < math.inf:
        raise BadRequest(f"--temperature {s.temperature}: it must be a number above 0")
    if s.top_k is not None and s.top_k < 1:
        raise BadRequest(f"--top-k {s.top_k}: it must be 1 or more")
    if s.top_p is not None and not 0 < s.top_p <= 1:
        raise BadRequest(f"--top-p {s.top_p}: it must be above 0 and at most 1")
    if s.count < 1:
        raise BadRequest(f"--count {s.count}: it must be 1 or more")
    if s.max_new_tokens is not None and s.max_new_tokens < 1:
        raise BadRequest(f"--max-new-tokens {s.max_new_tokens}: it must be 1 or more")


def check_prompt(prompt: list[int], context: int) -> None:
    """The prompt and BOS before it must leave room: the last token seen predicts the next."""
    if len(prompt) + 1 > context:
        raise BadRequest(
            f"a prompt of {len(prompt)} characters, limit {context - 1} (the context is {context}"
            " tokens, one of them the beginning): shorten it"
        )
