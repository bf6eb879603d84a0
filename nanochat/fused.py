"""Small steps that happen thousands of times, each as one unit with a gradient worked out by hand.

Called by gpt.py. PyTorch would record every multiplication of a norm or a rotation and walk them
all backwards; here each function keeps only what its gradient needs. The mathematics is in the
docstrings, and tests compare every function with its plain version, recorded step by step.
Inside torch.compile the plain versions run: the compiler fuses them, and would stop at ours.

B batch, T time, C channels, H heads, D head size. g is the gradient that arrives from above.
"""

from typing import Any

import torch
from torch import Tensor

EPS = 1e-6  # keeps a vector of zeros from being divided by zero


# @learn:foundations.floating_point
class _NoContext:
    """Stands in for autograd's notebook and writes nothing down."""

    scale = 1.0

    def save_for_backward(self, *tensors: Tensor) -> None:
        pass


class Fused(torch.autograd.Function):
    """A step with a gradient of its own, and the same step for a compiler to take apart."""

    @staticmethod
    def plain(*args: Any) -> Tensor:
        """Out of PyTorch's operations; the compiler finds the gradient."""
        raise NotImplementedError


def call(function: type[Fused], *args: Any) -> Tensor:
    """function.apply(*args), or only its forward pass where nobody will ask for a gradient.

    The same numbers without autograd's wrapping, which takes longer than a small sum.
    """
    if torch.compiler.is_compiling():
        return function.plain(*args)
    if torch.is_grad_enabled():
        return function.apply(*args)  # type: ignore[no-untyped-call]
    return function.forward(_NoContext(), *args)


def inverse_rms(x: Tensor) -> Tensor:
    """1 / root mean square along the last axis, which stays with size 1."""
    wide = torch.promote_types(x.dtype, torch.float32)  # bf16 would lose digits in the sum
    rms = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
    return rms.mul_(x.size(-1) ** -0.5).clamp_(min=EPS).reciprocal_().to(x.dtype)


# @learn:architecture.rmsnorm
class Norm(Fused):
    """y = x / rms(x);  dx = (g - y mean(g y)) / rms(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse = inverse_rms(x)
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (g,), (y, inverse) = grads, ctx.saved_tensors
        along = (g * y).mean(dim=-1, keepdim=True)
        return torch.addcmul(g, y, along, value=-1).mul_(inverse)

    @staticmethod
    def plain(x: Tensor) -> Tensor:
        """The same, step by step."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        # Clamped before the root: at 0 its slope is infinite, and infinite times 0 is NaN.
        mean_square = wide.square().mean(dim=-1, keepdim=True).clamp(min=EPS**2)
        return (wide * mean_square.rsqrt()).to(x.dtype)


# @learn:architecture.qk_norm
class RotateNorm(Fused):
    """y = scale * norm(rotate(x)), x (B, T, H, D), cos and sin (., T, 1, D/2).

    A rotation keeps lengths, so rms(rotate(x)) = rms(x); backwards, the rotation turns the other
    way: dx = rotate_back(scale (g - z mean(g z)) / rms), z = y / scale.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, scale: float) -> Tensor:
        inverse = inverse_rms(x).mul_(scale)
        y = turn(x, cos, sin).mul_(inverse)
        ctx.save_for_backward(y, inverse, cos, sin)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (g,), (y, inverse, cos, sin) = grads, ctx.saved_tensors
        along = (g * y).mean(dim=-1, keepdim=True).mul_(ctx.scale**-2)
        turned = torch.addcmul(g, y, along, value=-1).mul_(inverse)
        return turn(turned, cos, -sin), None, None, None

    @staticmethod
    def plain(x: Tensor, cos: Tensor, sin: Tensor, scale: float) -> Tensor:
        a, b = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
        turned = torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)
        return (Norm.plain(turned) * scale).to(x.dtype)


# @learn:architecture.rope
def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x[i], x[i + D/2]) by -angle: (a cos + b sin, b cos - a sin)."""
    a, b = x.chunk(2, dim=-1)
    y = torch.empty_like(x)
    left, right = y.chunk(2, dim=-1)
    torch.mul(a, cos, out=left).addcmul_(b, sin)
    torch.mul(b, cos, out=right).addcmul_(a, sin, value=-1)
    return y


# @learn:architecture.mlp
class ReluSquared(Fused):
    """y = max(x, 0)^2;  dx = 2 max(x, 0) g."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.clamp(min=0)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return (grads[0] * positive).mul_(2)

    @staticmethod
    def plain(x: Tensor) -> Tensor:
        return x.clamp(min=0).square()


# @learn:architecture.residual_scalars
class Mix(Fused):
    """y = r x + a x0 for two learned numbers;  dr = sum(g x),  da = sum(g x0)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, x0: Tensor, r: Tensor, a: Tensor) -> Tensor:
        ctx.save_for_backward(x, x0, r, a)
        return (x * r.to(x.dtype)).addcmul_(x0, a.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (g,), (x, x0, r, a) = grads, ctx.saved_tensors
        dr = (g * x).sum(dtype=torch.float32)
        da = (g * x0).sum(dtype=torch.float32)
        return g * r.to(g.dtype), g * a.to(g.dtype), dr, da

    @staticmethod
    def plain(x: Tensor, x0: Tensor, r: Tensor, a: Tensor) -> Tensor:
        return x * r.to(x.dtype) + x0 * a.to(x.dtype)
