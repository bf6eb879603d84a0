"""Scaled dot-product attention: every query takes a weighted mean of the values it may see.

Called by gpt.py. B batch, T queries, S keys, H query heads, G key/value heads, D head size.
A query at position i sees keys j with i - window <= j <= i.
Read: attend -> BlockAttention (training on a processor; GPUs take PyTorch's own kernels, and
attention_windows.py where a layer looks back a little only) -> visible_scores (for a trace).
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.attention_windows import windowed

BLOCK = 128  # queries handled together


# @learn:architecture.gqa
def attend(
    q: Tensor, k: Tensor, v: Tensor, window: int, mask: Tensor | None, causal: bool
) -> Tensor:
    """q (B, T, H, D), k and v (B, S, G, D) -> (B, T, H, D).

    `mask` (B, 1, T, S) comes from a cache; without one, `causal` says whether the future is hidden.
    """
    T, H, G = q.size(1), q.size(2), k.size(2)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, heads, T, D)
    # @learn:architecture.gqa
    if q.device.type == "cpu" and causal and mask is None:
        if H != G:
            k, v = (x.repeat_interleave(H // G, dim=1) for x in (k, v))
        return BlockAttention.apply(q, k, v, window).transpose(1, 2)
    if mask is None and causal and window < T:
        return windowed(q, k, v, window).transpose(1, 2)
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal and mask is None, enable_gqa=H != G
    )
    return y.transpose(1, 2)


# @learn:architecture.causal_mask
def window_mask(T: int, window: int, device: torch.device) -> Tensor:
    """(T, T) of booleans: may query row i look at key column j?"""
    return torch.ones(T, T, dtype=torch.bool, device=device).tril().triu(-window)


def visible_scores(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """q k^T / sqrt(D) as (B, H, T, S), -inf where a query may not look: `attend` in the open."""
    (H, D), k = q.shape[2:], k.transpose(1, 2)
    k = k if k.size(1) == H else k.repeat_interleave(H // k.size(1), dim=1)  # (B, H, S, D)
    scores = (q.transpose(1, 2) @ k.mT) * D**-0.5
    return scores if mask is None else scores.masked_fill(~mask, float("-inf"))


# @learn:architecture.self_attention
class BlockAttention(torch.autograd.Function):
    """Causal attention for processors: BLOCK queries at a time, against the keys they can see.

    Keys of the future and keys out of the window are never multiplied, so a window saves time and
    memory. Measured at T=512, D=128 in bf16 on two cores: forward and backward in 8 ms, where
    PyTorch's own kernel takes 20 (dev/LOG.md).

    P = softmax(q k^T / sqrt(D)), y = P v.  Backwards, with g = dy:
    dv = P^T g,  dP = g v^T,  dS = P (dP - sum(dP P)),  dq = dS k / sqrt(D),  dk = dS^T q / sqrt(D).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        B, H, T, D = q.shape
        q, k, v = (x.reshape(B * H, T, D) for x in (q, k, v))
        y = torch.empty_like(q)
        weights = []
        for rows, keys in blocks(T, window):
            hidden = hidden_scores(rows, keys, window, q)
            scores = torch.baddbmm(hidden, q[:, rows], k[:, keys].mT, alpha=D**-0.5)
            weights.append(torch.softmax(scores, dim=-1))
            torch.bmm(weights[-1], v[:, keys], out=y[:, rows])
        ctx.save_for_backward(q, k, v, *weights)
        ctx.window, ctx.shape = window, (B, H, T, D)
        return y.view(B, H, T, D)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, *weights = ctx.saved_tensors
        B, H, T, D = ctx.shape
        g = grads[0].reshape(B * H, T, D)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (rows, keys), P in zip(blocks(T, ctx.window), weights, strict=True):
            dv[:, keys] += P.mT @ g[:, rows]
            dP = g[:, rows] @ v[:, keys].mT  # (BH, rows, keys)
            dS = torch._softmax_backward_data(dP, P, -1, P.dtype).mul_(D**-0.5)
            torch.bmm(dS, k[:, keys], out=dq[:, rows])
            dk[:, keys] += dS.mT @ q[:, rows]
        return dq.view(B, H, T, D), dk.view(B, H, T, D), dv.view(B, H, T, D), None


# @learn:architecture.sliding_window
def blocks(T: int, window: int) -> Iterator[tuple[slice, slice]]:
    """Pairs of query rows and the keys that they can see."""
    for start in range(0, T, BLOCK):
        end = min(start + BLOCK, T)
        yield slice(start, end), slice(max(0, start - window), end)


# @learn:architecture.causal_mask
def hidden_scores(rows: slice, keys: slice, window: int, like: Tensor) -> Tensor:
    """(1, rows, keys): 0 where a query may look, -inf where it may not."""
    i = torch.arange(rows.start, rows.stop, device=like.device)[:, None]
    j = torch.arange(keys.start, keys.stop, device=like.device)
    hidden = torch.zeros(1, i.size(0), j.size(0), dtype=like.dtype, device=like.device)
    return hidden.masked_fill_((j > i) | (j < i - window), float("-inf"))
