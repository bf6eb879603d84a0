"""Scaled dot-product attention: every query takes a weighted mean of the values it may see.

Called by gpt.py. B batch, T queries, S keys, H query heads, G key/value heads, D head size.
A query at position i sees keys j with i - window <= j <= i.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def window_mask(T: int, window: int, device: torch.device) -> Tensor:
    """(T, T) of booleans: may query row i look at key column j?"""
    distance = torch.arange(T, device=device)[:, None] - torch.arange(T, device=device)
    return (distance >= 0) & (distance <= window)


def attend(
    q: Tensor, k: Tensor, v: Tensor, window: int, mask: Tensor | None, causal: bool
) -> Tensor:
    """q (B, T, H, D), k and v (B, S, G, D) -> (B, T, H, D).

    `mask` (B, 1, T, S) comes from a cache; without one, `causal` says whether the future is hidden.
    """
    T, H, G = q.size(1), q.size(2), k.size(2)
    if mask is None and causal and window < T:
        mask, causal = window_mask(T, window, q.device), False
    y = F.scaled_dot_product_attention(
        q.transpose(1, 2),  # (B, H, T, D)
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=causal and mask is None,
        enable_gqa=H != G,
    )
    return y.transpose(1, 2)
