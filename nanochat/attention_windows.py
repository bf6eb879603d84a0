"""Attention that looks only `window` tokens back, with memory for T x window scores, not T x T.

Called by attention.py on GPUs (processors have BlockAttention). Read: windowed -> by_blocks (plain
PyTorch, anywhere) -> by_flex (one fused kernel, inside torch.compile).
B batch, H query heads, G key/value heads, T time, D head size, w window, n blocks of w queries.
Sources: FlexAttention (He 2024), block-local windows (Longformer, Beltagy 2020).
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention


def windowed(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """q (B, H, T, D), k and v (B, G, T, D) -> (B, H, T, D); query i sees keys i - window to i."""
    if torch.compiler.is_compiling() and q.is_cuda:
        return by_flex(q, k, v, window)
    return by_blocks(q, k, v, window)


# @learn:architecture.sliding_window
def by_blocks(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Blocks of `window` queries, each against its own block of keys and the one before it.

    A query of block a at place r sees from place r of block a - 1 up to itself: both blocks are all
    it can ever need, and one (w, 2w) mask serves every block.
    """
    T, w, times = q.size(2), max(1, window), q.size(1) // k.size(1)
    if times > 1:  # with a mask, PyTorch's thrifty kernels want a key head for each query head
        k, v = (x.repeat_interleave(times, dim=1) for x in (k, v))
    if w >= T:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    first = by_blocks(q[:, :, :w], k[:, :, :w], v[:, :, :w], w)  # nothing before it to hide
    missing = -T % w
    q, k, v = (F.pad(x, (0, 0, 0, missing)) for x in (q[:, :, w:], k, v))
    q, k, v = (
        block_rows(q, w, w),
        block_rows(k, 2 * w, w),
        block_rows(v, 2 * w, w),
    )  # (B n, ., ., D)
    row, column = torch.arange(w, device=q.device)[:, None], torch.arange(2 * w, device=q.device)
    distance = w + row - column  # (w, 2w) from key to query
    mask = (distance >= 0) & (distance <= window)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    y = (
        y.view(len(first), -1, *y.shape[1:]).transpose(1, 2).flatten(2, 3)
    )  # (B n, H, w, D) -> (B,H,.,D)
    return torch.cat((first, y[:, :, : T - w]), dim=2)


def block_rows(x: Tensor, size: int, step: int) -> Tensor:
    """(B, H, T, D) -> (B n, H, size, D): stretches of `size` rows, one beginning every `step`."""
    blocks = x.unfold(2, size, step)  # (B, H, n, D, size), nothing copied
    return blocks.permute(0, 2, 1, 4, 3).flatten(0, 1)


def by_flex(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """PyTorch writes a kernel that never touches blocks out of the window."""
    mask = flex_mask(q.size(2), window, q.device)
    y = flex_attention(q, k, v, block_mask=mask, enable_gqa=q.size(1) != k.size(1))
    assert isinstance(y, Tensor), "only the output is asked for"
    return y


def flex_mask(T: int, window: int, device: torch.device) -> BlockMask:
    """Which blocks of keys a block of queries looks at.

    Written down anew in each layer: the compiler sees that all are the same, and keeps one.
    """

    def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key <= window)

    return create_block_mask(visible, None, None, T, T, device=device.type)
