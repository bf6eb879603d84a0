"""The same model, run in another way: compiled, with activations computed twice, or in 8 bits.

Called by train_loop.py. Nothing here changes what is learned, but for the rounding of 8 bits.
Read: speed_up -> Recomputed -> Compiled.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nanochat.distributed import here
from nanochat.gpt import GPT
from nanochat.precision import use_fp8
from nanochat.sharding import is_spread


def speed_up(model: GPT, compile: str, recompute: bool, fp8: bool) -> None:
    """Apply the flags of LoopSettings. Raises DeviceMissing for fp8 on hardware without it."""
    device = model.cos.device
    if fp8:
        use_fp8(model, device)
    if recompute:
        for block in model.blocks:
            if not isinstance(block.forward, Recomputed):
                block.forward = Recomputed(block.forward)
    wanted = compile == "on" or (compile == "auto" and device.type == "cuda")
    if wanted and not is_spread(model) and not isinstance(model.hidden, Compiled):
        model.hidden = Compiled(model.hidden)  # type: ignore[method-assign]


# @learn:optimization.activation_checkpointing
class Recomputed:
    """A block that keeps only its input, and runs again when its gradient is wanted.

    Costs a third more time; the memory of a model is then one block's activations, not all.
    """

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        self.plain = forward

    def __call__(self, x: Tensor, value: Any, rope: Any, cache: Any) -> Tensor:
        if cache is not None or not torch.is_grad_enabled():
            return self.plain(x, value, rope, cache)
        # Nothing in a block is drawn by chance, so no generator has to be wound back.
        return checkpoint(
            self.plain, x, value, rope, cache, use_reentrant=False, preserve_rng_state=False
        )


class Compiled:
    """GPT.hidden fused into few kernels by torch.compile; without a working compiler, as it was.

    The first call takes about a minute. Talking (a call with a cache) is not compiled.
    """

    def __init__(self, plain: Callable[..., Tensor]) -> None:
        self.plain = plain
        self.fast: Callable[..., Tensor] | None = torch.compile(plain, dynamic=False)
        self.proven = False

    def __call__(self, idx: Tensor, cache: Any = None) -> Tensor:
        if self.fast is None or cache is not None:
            return self.plain(idx, cache)
        if self.proven:
            return self.fast(idx)
        try:
            x = self.fast(idx)
            self.proven = True
            return x
        except (torch.OutOfMemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever a compiler that is not there may raise
            self.fast = None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            if here().leads:
                print(f"going on without torch.compile: {reason}", file=sys.stderr)
            return self.plain(idx, cache)
