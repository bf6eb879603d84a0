"""What a GPU would run, as far as a processor can tell: one graph, the same numbers, few compiles.

No kernel is written here (that takes a GPU): `aot_eager` traces forward and backward as for one,
takes them apart into the operations a kernel is made of, and runs those.
"""

import pytest
import torch
import torch.nn.functional as F
from tiny_models import lively_model

from nanochat import attention, compiled
from nanochat.attention_windows import by_blocks, by_flex
from nanochat.compiled import MOST_SHAPES, Compiled, CompiledHidden, speed_up
from nanochat.cross_entropy import chunk_loss
from nanochat.fused import Mix, Norm, ReluSquared, RotateNorm
from nanochat.gpt import GPT

F64 = torch.float64
T = 270  # more than two windows of the tiny model


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=F64)


def tokens() -> torch.Tensor:
    return torch.randint(0, 265, (2, T), generator=torch.Generator().manual_seed(3))


ANGLES = drawn(1, 5, 1, 4, seed=1)
STEPS = {
    "norm": (Norm, (drawn(3, 5, 8),), ()),
    "rotation": (RotateNorm, (drawn(2, 5, 3, 8),), (ANGLES.cos(), ANGLES.sin(), 1.2)),
    "relu squared": (ReluSquared, (drawn(3, 7),), ()),
    "mix": (Mix, (drawn(2, 4), drawn(2, 4, seed=1), drawn(1)[0], drawn(1, seed=2)[0]), ()),
}


@pytest.mark.parametrize("name", STEPS)
def test_what_a_compiler_is_given_equals_the_step_with_its_gradient_by_hand(name):
    step, learned, rest = STEPS[name]
    found = []
    for way in (step.apply, step.plain):
        leaves = [x.clone().requires_grad_() for x in learned]
        y = way(*leaves, *rest)
        found.append([y, *torch.autograd.grad((y * drawn(*y.shape, seed=9)).sum(), leaves)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # the gates' sums are in 32 bits


def test_the_slope_of_a_norm_of_zeros_is_a_number():
    x = torch.zeros(2, 4).requires_grad_()
    Norm.plain(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


# --- one graph ---


def on_a_gpu(window):
    """`attend` as it goes on a GPU, whatever the device."""

    def attend(q, k, v, size, mask, causal):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        if size < q.size(2):
            return window(q, k, v, size).transpose(1, 2)
        grouped = q.size(1) != k.size(1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        return y.transpose(1, 2)

    return attend


def learned(model: GPT, hidden) -> list[torch.Tensor]:
    """The output and every gradient."""
    model.zero_grad()
    x = hidden(tokens())
    (x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum().backward()
    return [x.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_forward_and_backward_are_one_graph_with_the_same_numbers(recompute, monkeypatch):
    model = lively_model()
    expected = learned(model, model.hidden)
    speed_up(model, "off", recompute, fp8=False)
    monkeypatch.setattr("nanochat.gpt.attend", on_a_gpu(by_blocks))
    torch.compiler.reset()
    whole = torch.compile(model.hidden, fullgraph=True, dynamic=False, backend="aot_eager")
    for a, b in zip(learned(model, whole), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


@pytest.mark.slow
@torch.no_grad()
def test_with_the_fused_window_kernel_it_is_one_graph_too(monkeypatch):
    """Processors have its forward pass only."""
    model = lively_model()
    expected = model.hidden(tokens())
    monkeypatch.setattr("nanochat.gpt.attend", on_a_gpu(by_flex))
    torch.compiler.reset()
    whole = torch.compile(model.hidden, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(whole(tokens()), expected, rtol=1e-3, atol=1e-3)


def test_on_a_processor_attention_gives_what_a_gpu_would_compute():
    q = drawn(1, 9, 2, 4)
    ours = attention.attend(q, q, q, 3, None, causal=True)
    torch.testing.assert_close(ours, on_a_gpu(by_blocks)(q, q, q, 3, None, True))


@pytest.mark.slow
@pytest.mark.parametrize("cap", [15.0, 0.0])
def test_the_loss_of_a_chunk_is_one_graph_with_the_same_numbers(cap):
    z = drawn(16, 128).to(torch.bfloat16)
    targets = torch.randint(0, 100, (16,), generator=torch.Generator().manual_seed(2))
    targets[3] = -1
    share = (targets >= 0).float() / 15
    expected = chunk_loss(z.clone(), targets, share, cap, 100)
    torch.compiler.reset()
    whole = torch.compile(chunk_loss, fullgraph=True, dynamic=False, backend="aot_eager")
    ours = whole(z.clone(), targets, share, cap, 100)
    torch.testing.assert_close(ours, expected)


# --- how often ---


def test_after_a_few_shapes_new_ones_run_plainly_and_known_ones_stay_compiled(monkeypatch):
    seen: list[int] = []

    def pretend(plain, **_: object):
        def fast(x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return plain(x)

        return fast

    monkeypatch.setattr(compiled.torch, "compile", pretend)
    double = Compiled(lambda x: 2 * x, set())
    for size in (*range(1, MOST_SHAPES + 3), 1):
        assert torch.equal(double(torch.ones(size)), torch.full((size,), 2.0))
    assert seen == [*range(1, MOST_SHAPES + 1), 1]


def test_hidden_and_the_loss_are_compiled_once_each_and_talking_is_not(monkeypatch):
    monkeypatch.setattr(compiled.torch, "compile", lambda plain, **_: plain)
    model = lively_model()
    for _ in range(2):
        speed_up(model, "on", recompute=False, fp8=False)
    assert isinstance(model.hidden, CompiledHidden) and isinstance(model.chunk_loss, Compiled)
    assert not isinstance(model.chunk_loss.plain, Compiled)
    idx = tokens()[:, :9]
    model(idx[:, :-1], idx[:, 1:]).backward()
    assert len(model.hidden.shapes) == 1 and len(model.chunk_loss.shapes) == 1
