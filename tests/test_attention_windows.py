"""Sliding windows on GPUs' paths: against the masked truth, and the memory they really save."""

import pytest
import torch
import torch.nn.functional as F

from nanochat.attention import window_mask
from nanochat.attention_windows import by_blocks, by_flex


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def truth(q, k, v, window):
    """Every score computed, the hidden ones masked."""
    mask = window_mask(q.size(2), window, q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


@pytest.mark.parametrize(
    "T, window", [(40, 8), (41, 8), (47, 16), (16, 16), (9, 3), (7, 1), (5, 9)]
)
@pytest.mark.parametrize("heads, groups", [(2, 2), (4, 2)])
def test_blocks_of_queries_equal_the_mask_in_value_and_gradient(T, window, heads, groups):
    q, k, v = drawn(2, heads, T, 8), drawn(2, groups, T, 8, seed=1), drawn(2, groups, T, 8, seed=2)
    ours, expected = by_blocks(q, k, v, window), truth(q, k, v, window)
    torch.testing.assert_close(ours, expected)
    weight = drawn(*ours.shape, seed=3).detach()
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), (q, k, v)),
        torch.autograd.grad((expected * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_fused_kernels_rule_of_who_sees_whom_is_the_mask():
    q, k, v = (drawn(1, 2, 200, 8, seed=i).detach().float() for i in range(3))
    torch.testing.assert_close(by_flex(q, k, v, 30), truth(q, k, v, 30), atol=1e-5, rtol=1e-5)


def test_a_window_saves_the_memory_of_the_scores_it_never_computes():
    """Bytes kept for the backward pass: linear in T with blocks, quadratic with a mask."""

    def kept(attention, T: int) -> int:
        q, k, v = (drawn(1, 2, T, 8, seed=i) for i in range(3))
        sizes: dict[int, int] = {}

        def note(x: torch.Tensor) -> torch.Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda x: x),
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        ):
            y = attention(q, k, v, 32)
        assert y.shape == q.shape
        return sum(sizes.values())

    assert kept(by_blocks, 1024) < kept(truth, 1024) / 4
    assert kept(by_blocks, 1024) < 2.2 * kept(by_blocks, 512)
    assert kept(truth, 1024) > 3 * kept(truth, 512)
