"""What a person sees while a model learns: one line that stays in place, or a log without a screen.

Called by train_loop.py through the scripts. tokens/s is a mean over the last seconds; "of GEMM" is
the share of this machine's bare matrix-product speed that the whole step reaches.
"""

import statistics
import sys
import time

from nanochat.scaling import flops_per_token
from nanochat.train_loop import Run

LOG_EVERY_S = 10.0  # without a terminal
WARM_UP_STEPS = 10


class Progress:
    """Call it after every step with the seconds the step took."""

    def __init__(self, gflops: float) -> None:
        self.gflops = gflops
        self.terminal = sys.stderr.isatty()
        self.every_s = 0.2 if self.terminal else LOG_EVERY_S
        self.printed_at = 0.0
        self.mean_s = 0.0
        self.steps_s: list[float] = []
        self.flops = 0

    def __call__(self, run: Run, seconds: float) -> None:
        self.steps_s.append(seconds)
        self.mean_s = 0.9 * self.mean_s + 0.1 * seconds if self.mean_s else seconds
        now, last = time.monotonic(), run.state.step >= run.schedule.steps
        if now - self.printed_at < self.every_s and not last:
            return
        self.printed_at = now
        line = self.line(run)
        if self.terminal:
            print(f"\r\033[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def steady_step_s(self) -> float:
        """Median seconds of a step, without the first ones, in which a GPU's kernels are made."""
        return statistics.median(self.steps_s[WARM_UP_STEPS:] or self.steps_s)

    def line(self, run: Run) -> str:
        """base 120/600  loss 2.31  val 0.84 bpb  15,300 tokens/s (41% of GEMM)  1:02 left."""
        state, steps = run.state, run.schedule.steps
        self.flops = self.flops or flops_per_token(run.model.config)
        rate = state.tokens / max(1, state.step) / self.mean_s
        share = rate * self.flops / (self.gflops * 1e9)
        left = int((steps - state.step) * self.mean_s)
        val = f"  val {state.curve[-1][2]:.3f} bpb" if state.curve else ""
        return (
            f"{run.stage} {state.step:,}/{steps:,}  loss {state.shown_loss():.3f}{val}  "
            f"{rate:,.0f} tokens/s ({share:.0%} of GEMM)  {left // 60}:{left % 60:02d} left"
        )
