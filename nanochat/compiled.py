"""The same model, run in another way: compiled, with activations computed twice, or in 8 bits.

Called by train_loop.py. Nothing here changes what is learned, but for the rounding of 8 bits.
Read: speed_up -> Recomputed -> Compiled -> CompiledHidden.
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

MOST_SHAPES = 4  # learning, evaluating, and the last piece of each


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
    if wanted and not is_spread(model) and not isinstance(model.hidden, CompiledHidden):
        said: set[str] = set()
        model.hidden = CompiledHidden(model.hidden, said)  # type: ignore[method-assign]
        model.chunk_loss = Compiled(model.chunk_loss, said)  # type: ignore[assignment]


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
    """A function fused into few kernels by torch.compile; without a working compiler, as it was.

    The first call takes up to a minute, and so does each new shape of the arguments; after
    MOST_SHAPES of them (conversations that are practised differ every time) others run plainly.
    """

    def __init__(self, plain: Callable[..., Any], said: set[str]) -> None:
        self.plain, self.said = plain, said  # reasons to go on without, each told once a model
        self.fast: Callable[..., Any] | None = torch.compile(plain, dynamic=False)
        self.proven = False
        self.shapes: set[Any] = set()

    def __call__(self, *args: Any) -> Any:
        if self.fast is None or not self._known(args):
            return self.plain(*args)
        if self.proven:
            return self.fast(*args)
        try:
            result = self.fast(*args)
            self.proven = True
            return result
        except (torch.OutOfMemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever a compiler that is not there may raise
            self.fast = None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            if here().leads and reason not in self.said:
                self.said.add(reason)
                print(f"going on without torch.compile: {reason}", file=sys.stderr)
            return self.plain(*args)

    def _known(self, args: tuple[Any, ...]) -> bool:
        """Is this shape compiled, or may it be?"""
        sizes = tuple(x.shape for x in args if isinstance(x, Tensor))
        shape = sizes, torch.is_grad_enabled()
        if shape not in self.shapes and len(self.shapes) < MOST_SHAPES:
            self.shapes.add(shape)
        return shape in self.shapes


class CompiledHidden(Compiled):
    """GPT.hidden, compiled to learn. Talking (a call with a cache) is not: its shapes change."""

    def __call__(self, idx: Tensor, cache: Any = None) -> Tensor:
        return super().__call__(idx) if cache is None else self.plain(idx, cache)
