"""What only a CUDA GPU can show: its kernels against a processor's numbers.

`pytest -m cuda` runs these where there is one. Each has the processor's result, computed by code
that other tests hold to the truth, as its measure.
"""

import copy

import pytest
import torch
from tiny_models import byte_tokenizer, lively_model

from nanochat.attention import attend
from nanochat.compiled import speed_up
from nanochat.device import sent
from nanochat.engine import Engine
from nanochat.gpt import GPT
from nanochat.optimizers import Optimizers, OptimizerSettings
from nanochat.precision import Fp8Product, has_fp8
from nanochat.sampling import Sampling

HERE = torch.cuda.is_available()
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.slow,
    pytest.mark.skipif(not HERE, reason="no CUDA GPU here"),
]
CUDA = torch.device("cuda")
WIDE = {"n_embd": 128, "n_head": 2, "n_kv_head": 2}  # heads of 64, as the kernels want them


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 265, (4, 257), generator=torch.Generator().manual_seed(0))
    return ids[:, :-1], ids[:, 1:].contiguous()


def on_gpu(model: GPT, dtype: torch.dtype = torch.float32) -> GPT:
    moved = copy.deepcopy(model).to(CUDA)
    moved.dtype = dtype
    return moved


def learned(model: GPT) -> list[torch.Tensor]:
    """The loss and every gradient, on the processor."""
    device = model.cos.device
    model.zero_grad()
    loss = model(*(sent(x, device) for x in batch()))
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return [x.detach().float().cpu() for x in (loss, *grads)]


def near(ours: list[torch.Tensor], expected: list[torch.Tensor], off: float) -> None:
    for a, b in zip(ours, expected, strict=True):
        assert a.isfinite().all() and (a - b).norm() <= off * b.norm() + 1e-6


@pytest.mark.parametrize("compile", ["off", "on"])
@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
def test_loss_and_gradients_are_those_of_a_processor(compile, dtype, off):
    model = lively_model(sharpness=3.0, **WIDE).train()
    moved = on_gpu(model, dtype)
    torch.compiler.reset()
    speed_up(moved, compile, recompute=False, fp8=False)
    near(learned(moved), learned(model), off)
    if compile == "on":
        assert moved.hidden.proven and moved.chunk_loss.proven, "the compiler worked"


@pytest.mark.parametrize("compile", ["off", "on"])
def test_activations_computed_twice_give_the_same_gradients(compile):
    model = lively_model(sharpness=3.0, **WIDE).train()
    thrifty = on_gpu(model)
    torch.compiler.reset()
    speed_up(thrifty, compile, recompute=True, fp8=False)
    near(learned(thrifty), learned(model), 1e-3)


def test_an_8_bit_product_is_near_the_exact_one():
    if not has_fp8(CUDA):
        pytest.skip("this GPU has no 8-bit units")
    x, w = drawn(64, 128).requires_grad_(), drawn(256, 128, seed=1).requires_grad_()
    upstream = drawn(64, 256, seed=2)
    exact = [x @ w.T, *torch.autograd.grad(x @ w.T, (x, w), upstream)]
    x8, w8 = (t.detach().to(CUDA).requires_grad_() for t in (x, w))
    half = x8.to(torch.bfloat16)  # the unit's results have 16 bits
    y = Fp8Product.apply(half, w8)
    ours = [y, *torch.autograd.grad(y, (x8, w8), upstream.to(y))]
    near([t.float().cpu() for t in ours], exact, 0.12)


def kept_for_backward(window: int, T: int = 4096) -> int:
    """Bytes that attention keeps, and its scratch memory, at the worst moment."""
    q, k, v = (drawn(1, T, 2, 64, seed=i).to(CUDA, torch.bfloat16) for i in range(3))
    for x in (q, k, v):
        x.requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    attend(q, k, v, window, None, causal=True).sum().backward()
    return torch.cuda.max_memory_allocated() - before


def test_windows_never_hold_the_scores_of_all_pairs():
    """2 heads x 4096 x 4096 scores of 2 bytes would be 67 MB."""
    assert kept_for_backward(window=256) < 40e6


def test_five_steps_learn_what_a_processor_learns_and_a_copy_goes_on_alike():
    def five(model: GPT) -> list[float]:
        optimizers = Optimizers(model, OptimizerSettings(lr_scale=0.1))
        losses = []
        for _ in range(5):
            loss = model(*(sent(x, model.cos.device) for x in batch()))
            loss.backward()
            optimizers.step(1.0, 0.95, 1.0)
            optimizers.zero_grad()
            losses.append(loss.item())
        return losses

    model = lively_model(sharpness=3.0, **WIDE).train()
    ours, expected = five(on_gpu(model)), five(model)
    assert ours == pytest.approx(expected, rel=0.02) and ours[-1] < ours[0]


def test_the_engine_writes_the_processors_answers():
    model = lively_model(**WIDE)
    prompts = [[1, 2, 3], [9] * 40, [5, 6]]
    sampling = Sampling(max_tokens=20, temperature=0.0)
    answers = [
        Engine(m, byte_tokenizer()).generate_batch(prompts, sampling)
        for m in (on_gpu(model), model)
    ]
    assert [a.tokens for a in answers[0]] == [a.tokens for a in answers[1]]
