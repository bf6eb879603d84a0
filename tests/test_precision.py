"""Fewer bits and less memory: the same gradients, or as near as the bits allow."""

from dataclasses import dataclass

import pytest
import torch
from tiny_models import config, lively_model

from nanochat import compiled
from nanochat.compiled import Compiled, speed_up
from nanochat.cross_entropy import mean_loss
from nanochat.device import DeviceMissing
from nanochat.distributed import World
from nanochat.gpt import GPT
from nanochat.precision import (
    FIRST_SCALE,
    PATIENCE,
    Fp8Linear,
    Fp8Product,
    LossScaler,
    fits_8_bits,
    switch_to_fp8,
    to_8_bits,
    use_fp8,
)


@dataclass
class State:
    loss_scale: float = 0.0
    good_steps: int = 0


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 265, (2, 33), generator=torch.Generator().manual_seed(seed))
    return ids[:, :-1], ids[:, 1:].contiguous()


def gradients(model: GPT) -> list[torch.Tensor]:
    model.zero_grad()
    model(*batch()).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


# --- fp16 ---


def test_a_scaled_loss_gives_the_same_gradient_after_unscaling():
    weight = torch.nn.Linear(3, 2, bias=False)
    scaler = LossScaler(torch.float16, State())
    weight(torch.ones(1, 3)).sum().backward()
    expected = weight.weight.grad.clone()
    weight.zero_grad()
    scaler.scaled(weight(torch.ones(1, 3)).sum()).backward()
    assert weight.weight.grad.max() == FIRST_SCALE
    assert scaler.unscale(weight, World())
    torch.testing.assert_close(weight.weight.grad, expected)


def test_an_overflow_skips_the_step_and_halves_the_scale_and_patience_doubles_it():
    weight, state = torch.nn.Linear(3, 2, bias=False), State()
    scaler = LossScaler(torch.float16, state)
    weight.weight.grad = torch.full((2, 3), torch.inf)
    assert not scaler.unscale(weight, World())
    assert state.loss_scale == FIRST_SCALE / 2 and state.good_steps == 0
    weight.weight.grad = torch.ones(2, 3)
    for _ in range(PATIENCE):
        assert scaler.unscale(weight, World())
    assert state.loss_scale == FIRST_SCALE and state.good_steps == 0


def test_other_formats_are_left_alone():
    state = State()
    scaler, loss = LossScaler(torch.bfloat16, state), torch.tensor(2.0)
    assert scaler.scaled(loss) is loss and state == State()


def test_fp16_gradients_of_a_long_batch_do_not_vanish():
    """A share of 1/60000 times a small probability is below what fp16 can hold."""
    x, weight = drawn(3000, 16), drawn(64, 16, seed=1).requires_grad_()
    targets = torch.randint(0, 64, (3000,), generator=torch.Generator().manual_seed(2))
    many = torch.cat((targets, torch.zeros(0, dtype=torch.int64)))
    found = {}
    for dtype in (torch.float32, torch.float16):
        narrow = x.to(dtype).detach().requires_grad_()
        loss = mean_loss(narrow, weight, many, 15.0, 64)
        scale = 1.0 if dtype == torch.float32 else FIRST_SCALE
        dx, dw = torch.autograd.grad(loss * scale, (narrow, weight))
        found[dtype] = loss.detach(), dx.float() / scale, dw / scale
    for exact, ours in zip(found[torch.float32], found[torch.float16], strict=True):
        torch.testing.assert_close(ours, exact, rtol=0.02, atol=float(exact.abs().max()) * 0.01)
        assert (ours == 0).float().mean() <= (exact.abs() < 1e-12).float().mean() + 0.01


# --- fp8 ---


def test_eight_bits_hold_every_number_to_a_sixteenth_and_the_largest_exactly():
    x = drawn(50, 50)
    small, scale = to_8_bits(x, torch.float8_e4m3fn)
    back = small.float() * scale
    assert (back - x).abs().max() <= x.abs().max() / 16
    assert back.abs().max() == pytest.approx(float(x.abs().max()), rel=1e-6)


def test_an_8_bit_product_and_its_gradients_are_near_the_exact_ones(monkeypatch):
    """Processors without 8-bit units multiply the same rounded numbers in fp32."""

    def emulated(a, a_scale, b, b_scale, out, quick=False):
        return ((a.float() * a_scale) @ (b.float() * b_scale)).to(out)

    monkeypatch.setattr("nanochat.precision.product", emulated)
    x, w = drawn(64, 128).requires_grad_(), drawn(256, 128, seed=1).requires_grad_()
    upstream = drawn(64, 256, seed=2)
    exact = x @ w.T
    ours = Fp8Product.apply(x, w)
    assert (ours - exact).norm() / exact.norm() < 0.06
    for a, b in zip(
        torch.autograd.grad(ours, (x, w), upstream),
        torch.autograd.grad(exact, (x, w), upstream),
        strict=True,
    ):
        assert (a - b).norm() / b.norm() < 0.12 and a.shape == b.shape


def test_fp8_takes_the_large_matrices_only_and_leaves_evaluation_alone():
    model = GPT(config(n_embd=128, n_head=4, n_kv_head=4))
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(*batch())
    fitting = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    count = sum(fits_8_bits(m.weight) for m in fitting)
    assert switch_to_fp8(model) == count and 0 < count < len(fitting)  # gates are too small
    assert isinstance(model.blocks[0].mlp.up.forward, Fp8Linear)
    with torch.no_grad():
        assert torch.equal(model(*batch()), before)


def test_fp8_multiplies_with_the_weight_that_is_there_when_it_runs():
    """FSDP puts the whole matrix in the place of a part while a block runs."""
    model = GPT(config(n_embd=128, n_head=4, n_kv_head=4))
    switch_to_fp8(model)
    up = model.blocks[0].mlp.up
    up.weight = torch.nn.Parameter(torch.ones_like(up.weight))
    with torch.no_grad():
        assert torch.equal(up(torch.ones(1, 128)), torch.full((1, 512), 128.0))


def test_fp8_on_a_processor_is_refused_with_the_reason():
    with pytest.raises(DeviceMissing, match="8-bit units"):
        use_fp8(GPT(config()), torch.device("cpu"))


# --- activation checkpointing ---


def test_recomputed_activations_give_the_same_gradients_bit_for_bit():
    model = lively_model()
    expected = gradients(model)
    speed_up(model, "off", recompute=True, fp8=False)
    assert all(torch.equal(a, b) for a, b in zip(gradients(model), expected, strict=True))


def test_recomputing_keeps_less_for_the_backward_pass():
    def kept(model: GPT) -> int:
        sizes: dict[int, int] = {}

        def note(x: torch.Tensor) -> torch.Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            loss = model(*batch())
        assert loss.requires_grad
        return sum(sizes.values())

    plain, thrifty = lively_model(n_layer=8), lively_model(n_layer=8)
    speed_up(thrifty, "off", recompute=True, fp8=False)
    assert kept(thrifty) < kept(plain) / 2


# --- torch.compile ---


def test_without_a_working_compiler_training_goes_on_and_says_so(monkeypatch, capsys):
    def broken(*_: object, **__: object):
        def fails(*_: object) -> torch.Tensor:
            raise RuntimeError("no C++ compiler here\nand many more lines")

        return fails

    monkeypatch.setattr(compiled.torch, "compile", broken)
    model = lively_model()
    expected = gradients(model)
    speed_up(model, "on", recompute=False, fp8=False)
    assert isinstance(model.hidden, Compiled)
    assert all(torch.equal(a, b) for a, b in zip(gradients(model), expected, strict=True))
    assert capsys.readouterr().err == "going on without torch.compile: no C++ compiler here\n"
    assert model.hidden.fast is None and model.chunk_loss.fast is None


@pytest.mark.slow
def test_a_compiled_model_has_the_same_loss_and_gradients():
    plain = {"value_embeddings": False, "smear": False, "backout": False}
    model = lively_model(n_layer=1, sharpness=3.0, **plain)  # compiling takes half a minute
    expected, loss = gradients(model), model(*batch()).item()
    speed_up(model, "on", recompute=False, fp8=False)
    ours = gradients(model)
    assert model.hidden.proven, "the compiler worked"
    assert model(*batch()).item() == pytest.approx(loss, rel=1e-5)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
