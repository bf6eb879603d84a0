"""The loss without the table of logits: project, softcap and compare a few rows at a time.

Called by gpt.py. A batch of N tokens has N x V logits; at N=2048, V=4096 that is 34 MB in fp32,
several times over in a plain backward pass. Here a chunk of rows is projected, its loss and its
gradient are computed on the spot, and the chunk is forgotten; the fp32 numbers of a softmax are
held for fewer rows still.

    z = x @ W.T               (N, C) @ (C, V) -> (N, V)
    u = cap * tanh(z / cap)   the softcap keeps every logit inside (-cap, cap); cap 0 leaves z
    loss = logsumexp(u) - u[target]
    d loss / d u = softmax(u) - onehot(target);   d u / d z = 1 - (u / cap)^2

N tokens, C channels, V vocabulary rows (padding rows included, never predicted).
Source of the idea: chunked ("cut") cross-entropy, Wijmans et al. 2024.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

IGNORE = -1  # a target that is not graded
CHUNK_ROWS = 512  # rows of one matrix product
WIDE_ROWS = 128  # rows of it that are fp32 at once
GPU_CHUNK_ROWS = 4096  # 512 rows leave most of a GPU idle

# Raw scores (n, V), targets, shares, cap and V -> the chunk's loss, and d loss / d scores.
ChunkLoss = Callable[[Tensor, Tensor, Tensor, float, int], tuple[Tensor, Tensor]]


# @learn:foundations.floating_point
def wide(x: Tensor) -> torch.dtype:
    """The format for sums and exponentials: fp32, or fp64 where x is."""
    return torch.promote_types(x.dtype, torch.float32)


# @learn:foundations.matrix_multiplication
# @learn:architecture.logit_softcap
def capped_logits(x: Tensor, weight: Tensor, cap: float, vocab_size: int) -> Tensor:
    """(N, C) activations -> (N, V) logits in fp32 at least, padding rows cut off."""
    return capped(x @ weight.to(x.dtype).mT, cap, vocab_size)


def capped(z: Tensor, cap: float, vocab_size: int) -> Tensor:
    """(N, rows) raw scores -> (N, V) logits in fp32 at least, padding rows cut off."""
    z = z[..., :vocab_size].to(wide(z))
    return cap * torch.tanh(z / cap) if cap else z


def chunks(x: Tensor) -> Iterator[slice]:
    """The rows of x, some at a time."""
    size = CHUNK_ROWS if x.device.type == "cpu" else GPU_CHUNK_ROWS
    return (slice(start, start + size) for start in range(0, len(x), size))


class _ChunkedLoss(torch.autograd.Function):
    """Sum of each target's loss times its `share` (N,), its gradients made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        share: Tensor,
        cap: float,
        V: int,
        chunk: ChunkLoss,
    ) -> Tensor:
        w = weight.to(x.dtype)
        ctx.lift = lift(x, share)
        total = torch.zeros((), device=x.device, dtype=wide(x))
        dx, dw = torch.empty_like(x), torch.zeros_like(weight)
        for rows in chunks(x):
            loss, dz = chunk(x[rows] @ w.mT, targets[rows], share[rows] * ctx.lift, cap, V)
            total += loss
            torch.mm(dz, w, out=dx[rows])
            dw += dz.mT @ x[rows]
        ctx.save_for_backward(dx, dw)
        return total / ctx.lift

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        dx, dw = ctx.saved_tensors
        scale = upstream[0] / ctx.lift
        return dx * scale.to(dx.dtype), dw * scale, None, None, None, None, None


def lift(x: Tensor, share: Tensor) -> float:
    """1, except in fp16: there a share of 1/N vanishes, so the gradient is made for shares near 1.

    train_loop.py scales the loss for the rest of the way (precision.LossScaler).
    """
    if x.dtype != torch.float16 or not len(share):
        return 1.0
    return 1 / max(1e-12, float(share.abs().amax()))


def chunk_loss(
    z: Tensor, targets: Tensor, share: Tensor, cap: float, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """`capped_loss` with sums in 32 bits; z becomes its own slope. One unit to compile."""
    loss = torch.zeros((), device=z.device, dtype=wide(z))
    some = WIDE_ROWS if z.device.type == "cpu" else max(1, len(z))
    parts = zip(z.split(some), targets.split(some), share.split(some), strict=True)
    for scores, target, part in parts:
        part_loss, slope = capped_loss(scores.to(wide(z), copy=True), target, part, cap, vocab_size)
        loss += part_loss
        scores.copy_(slope)
    return loss, z


# @learn:architecture.logit_softcap
def capped_loss(
    z: Tensor, targets: Tensor, share: Tensor, cap: float, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Scores z (n, V), overwritten -> summed loss, each row times its `share`, and d loss / d z."""
    if cap:
        tanh = z.div_(cap).tanh_()
        u = tanh * cap
    else:  # nothing bounds the scores, so subtract the largest: exp(800) overflows, exp(0) cannot
        u = z.sub_(z[:, :vocab_size].amax(1, keepdim=True))
    target = targets.clamp(min=0)[:, None]  # (n, 1)
    chosen = u.gather(1, target)
    p = u.exp_()
    p[:, vocab_size:] = 0
    total = p.sum(1, keepdim=True)
    share = share[:, None]
    loss = ((total.log() - chosen) * share).sum()
    p.mul_(share / total)  # softmax times share
    if torch.compiler.is_compiling():  # a scatter would end the fused kernel; a comparison does not
        place = torch.arange(p.size(1), device=p.device)
        p = torch.where(place == target, p - share, p)
    else:
        p.scatter_add_(1, target, -share)
    if cap:
        p.addcmul_(p * tanh, tanh, value=-1)  # times 1 - tanh^2
    return loss, p


# @learn:foundations.cross_entropy
def mean_loss(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    cap: float,
    vocab_size: int,
    chunk: ChunkLoss = chunk_loss,
) -> Tensor:
    """Mean nats per graded target: x (N, C), weight (V, C), targets (N,) with -1 for "ignore".

    With no graded target at all the loss is 0 and so is its gradient, never NaN. `chunk` is
    chunk_loss, or what compiled.py made of it.
    """
    if torch.is_grad_enabled():
        if x.device.type == "cpu" and bool((targets == IGNORE).any()):
            graded = targets != IGNORE  # rows that are not graded cost nothing
            x, targets = x[graded], targets[graded]
        share = (targets != IGNORE).to(wide(x))  # (N,)
        share = share / share.sum().clamp(min=1)
        return _ChunkedLoss.apply(x, weight, targets, share, cap, vocab_size, chunk)
    nats = token_losses(x, weight, targets, cap, vocab_size)
    return nats.sum() / (targets != IGNORE).sum().clamp(min=1)


# @learn:optimization.policy_gradient
def weighted_loss(
    x: Tensor, weight: Tensor, targets: Tensor, share: Tensor, cap: float, vocab_size: int
) -> Tensor:
    """Sum of share * nats over graded targets, `share` (N,) of any sign: what rl.py descends."""
    graded = targets != IGNORE
    x, targets, share = x[graded], targets[graded], share[graded].to(wide(x))
    if torch.is_grad_enabled():
        return _ChunkedLoss.apply(x, weight, targets, share, cap, vocab_size, chunk_loss)
    return (token_losses(x, weight, targets, cap, vocab_size) * share).sum()


@torch.no_grad()
def token_losses(x: Tensor, weight: Tensor, targets: Tensor, cap: float, vocab_size: int) -> Tensor:
    """Nats of each target, (N,); 0 where the target is ignored. For evaluation: no gradients."""
    losses = [x.new_zeros(0, dtype=wide(x))]  # no rows at all: no losses
    for rows in chunks(x):
        logits = capped_logits(x[rows], weight, cap, vocab_size)
        losses.append(
            torch.nn.functional.cross_entropy(
                logits, targets[rows], ignore_index=IGNORE, reduction="none"
            )
        )
    return torch.cat(losses)
