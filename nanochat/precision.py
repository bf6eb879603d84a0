"""Number formats with fewer bits: a scale that keeps fp16 gradients alive, and fp8 products.

Called by train_loop.py and compiled.py. bf16 needs none of this: it has the range of fp32.
Read: LossScaler -> Fp8Product -> Fp8Linear -> use_fp8. N rows, K inner size, M outputs.
Sources: mixed precision (Micikevicius 2017), FP8 formats (Micikevicius 2022).
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nanochat.device import DeviceMissing
from nanochat.distributed import World

FIRST_SCALE = 2.0**15
PATIENCE = 2000  # good steps before a larger scale is tried
MULTIPLE, SMALLEST = 16, 128  # sizes the 8-bit units take, and below which they don't pay
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2  # more digits; more range


class ScaleState(Protocol):
    """Where the scale is kept between steps: train_loop.TrainState, saved with the run."""

    loss_scale: float
    good_steps: int


# @learn:optimization.loss_scaling
class LossScaler:
    """fp16 has nothing below 6e-8, so small gradients vanish: multiply the loss, divide them later.

    A step whose gradients overflow is skipped and the scale halved; after PATIENCE good steps it
    is doubled. In every other format this does nothing.
    """

    def __init__(self, dtype: torch.dtype, state: ScaleState) -> None:
        self.state, self.active = state, dtype == torch.float16
        if self.active and not state.loss_scale:
            state.loss_scale = FIRST_SCALE

    def scaled(self, loss: Tensor) -> Tensor:
        return loss * self.state.loss_scale if self.active else loss

    def unscale(self, model: nn.Module, world: World) -> bool:
        """Divide the gradients; False if any of any process is not finite: skip this step."""
        if not self.active:
            return True
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        for grad in grads:
            grad.div_(self.state.loss_scale)
        # Of all gradients at once: each question to a GPU waits until it has computed everything.
        flags = [not_finite(grad) for grad in grads]
        broken = float(torch.stack(flags).sum()) if flags else 0.0
        if world.sum([broken]) != [0.0]:
            self.state.loss_scale, self.state.good_steps = self.state.loss_scale / 2, 0
            return False
        self.state.good_steps += 1
        if self.state.good_steps == PATIENCE:
            self.state.loss_scale, self.state.good_steps = self.state.loss_scale * 2, 0
        return True


def not_finite(grad: Tensor) -> Tensor:
    """Has this process's part of a gradient a number that is none?"""
    part = grad.to_local() if hasattr(grad, "to_local") else grad  # divided over processes
    return ~part.isfinite().all()


def to_8_bits(x: Tensor, format: torch.dtype) -> tuple[Tensor, Tensor]:
    """x -> (x / scale in 8 bits, scale): one scale a tensor, so that the largest number just fits.

    Source: tensorwise dynamic scaling, as in nanochat and torchao.
    """
    scale = x.abs().amax().float().clamp(min=1e-12) / torch.finfo(format).max
    return (x.float() / scale).to(format), scale  # a scale in bf16 would be 0.2% off


class Fp8Product(torch.autograd.Function):
    """y = x W^T with 8-bit factors and sums in more bits; gradients in E5M2, which has more range.

    dx = g W, dW = g^T x, each with both factors in 8 bits. x (N, K), W (M, K), y (N, M).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x8, x_scale = to_8_bits(x, E4M3)
        w8, w_scale = to_8_bits(weight, E4M3)
        ctx.save_for_backward(x8, x_scale, w8, w_scale)
        ctx.dtype = x.dtype
        return product(x8, x_scale, w8.t(), w_scale, x.dtype, quick=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x8, x_scale, w8, w_scale = ctx.saved_tensors
        g8, g_scale = to_8_bits(grads[0].contiguous(), E5M2)
        # the unit wants its second factor column by column
        dx = product(g8, g_scale, w8.t().contiguous().t(), w_scale, ctx.dtype)
        dw = product(g8.t().contiguous(), g_scale, x8.t().contiguous().t(), x_scale, torch.float32)
        return dx, dw


def product(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, out: torch.dtype, quick: bool = False
) -> Tensor:
    """a (N, K) times b (K, M, column by column), both in 8 bits.

    `quick` keeps sums in the unit's own short registers: enough for outputs, not for gradients.
    """
    return torch._scaled_mm(
        a, b, scale_a=a_scale, scale_b=b_scale, out_dtype=out, use_fast_accum=quick
    )


class Fp8Linear:
    """The forward pass of a matrix in 8 bits; where no gradient is wanted, in that of x as ever."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear  # not its weight: FSDP puts the whole one in its place while it runs

    def __call__(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., M)."""
        weight = self.linear.weight
        if not torch.is_grad_enabled():
            return nn.functional.linear(x, weight.to(x.dtype))
        flat = x.reshape(-1, x.size(-1))  # (N, K)
        return Fp8Product.apply(flat, weight).view(*x.shape[:-1], -1)


def fits_8_bits(weight: Tensor) -> bool:
    return min(weight.shape) >= SMALLEST and not any(size % MULTIPLE for size in weight.shape)


def has_fp8(device: torch.device) -> bool:
    """Hopper, Ada and later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def use_fp8(model: nn.Module, device: torch.device) -> int:
    """Let every large matrix multiply in 8 bits while it learns; returns how many do."""
    if not has_fp8(device):
        raise DeviceMissing(
            f"--fp8 needs a GPU with 8-bit units (compute capability 8.9), not {device}; leave it "
            "off"
        )
    return switch_to_fp8(model)


def switch_to_fp8(model: nn.Module) -> int:
    """The switch itself, whatever the device."""
    count = 0
    for module in model.modules():
        if isinstance(module, nn.Linear) and fits_8_bits(module.weight):
            module.forward = Fp8Linear(module)  # type: ignore[assignment]
            count += 1
    return count
