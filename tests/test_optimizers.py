"""Muon, AdamW, their schedules and who gets which: against torch.optim and the singular values."""

import math

import pytest
import torch
from tiny_models import config

from nanochat.adamw import AdamGroup, AdamW
from nanochat.gpt import GPT
from nanochat.muon import Muon, orthogonalize
from nanochat.optimizers import Optimizers, OptimizerSettings
from nanochat.schedules import Schedule


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 64, 16), (2, 16, 64)])
def test_orthogonalize_brings_every_singular_value_near_one(shape):
    y = orthogonalize(drawn(*shape))
    values = torch.linalg.svdvals(y.double())
    assert values.min() > 0.7 and values.max() < 1.3


def test_orthogonalize_keeps_the_singular_vectors():
    """The exact answer is U V^T; the quintic steps may only change the lengths a little."""
    x = drawn(1, 24, 16)
    u, _, vt = torch.linalg.svd(x.double(), full_matrices=False)
    exact, ours = u @ vt, orthogonalize(x).double()
    cosine = (exact * ours).sum() / (exact.norm() * ours.norm())
    assert cosine > 0.99


def muon_weight(shape=(8, 4), seed: int = 0) -> torch.nn.Parameter:
    weight = torch.nn.Parameter(drawn(*shape, seed=seed))
    weight.grad = drawn(*shape, seed=seed + 1)
    return weight


def test_a_muon_step_has_the_length_of_an_orthogonal_matrix():
    weight = muon_weight()
    before = weight.detach().clone()
    Muon({"w": weight}, lr=0.1, dtype=torch.float32).step(1.0, 0.9, 0.0)
    step = (before - weight.detach()) / 0.1
    assert step.norm().item() == pytest.approx(math.sqrt(4) * math.sqrt(8 / 4), rel=1e-4)


def test_muon_does_not_care_about_the_size_of_the_gradient():
    steps = []
    for scale in (1.0, 1000.0):
        weight = muon_weight()
        assert weight.grad is not None
        weight.grad *= scale
        Muon({"w": weight}, lr=0.1, dtype=torch.float32).step(1.0, 0.9, 0.0)
        steps.append(weight.detach().clone())
    torch.testing.assert_close(*steps, rtol=1e-4, atol=1e-5)


def test_muon_updates_stacked_matrices_as_if_each_were_alone():
    together = {str(i): muon_weight(seed=10 * i) for i in range(3)}
    alone = {str(i): muon_weight(seed=10 * i) for i in range(3)}
    Muon(together, 0.1, torch.float32).step(1.0, 0.9, 0.1)
    for name, weight in alone.items():
        Muon({name: weight}, 0.1, torch.float32).step(1.0, 0.9, 0.1)
        torch.testing.assert_close(together[name], weight)


def test_muon_decays_a_weight_only_where_the_step_agrees():
    with_decay, without = muon_weight(), muon_weight()
    before = with_decay.detach().clone()
    Muon({"w": with_decay}, 0.1, torch.float32).step(1.0, 0.9, 0.5)
    Muon({"w": without}, 0.1, torch.float32).step(1.0, 0.9, 0.0)
    agree = (before - without) * before >= 0
    torch.testing.assert_close(with_decay[~agree], without[~agree])
    rate = 0.1 * math.sqrt(8 / 4) * 0.5  # tall matrices learn faster, by sqrt(rows / columns)
    torch.testing.assert_close(with_decay[agree], (without - rate * before)[agree])


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_equals_the_one_in_torch(decay):
    ours, theirs = (torch.nn.Parameter(drawn(5, 3)) for _ in range(2))
    adamw = AdamW([AdamGroup(("w",), 0.01, (0.8, 0.95), decay)], {"w": ours})
    reference = torch.optim.AdamW([theirs], 0.01, (0.8, 0.95), AdamW.eps, weight_decay=decay)
    for step in range(20):
        ours.grad = drawn(5, 3, seed=step)
        theirs.grad = ours.grad.clone()
        adamw.step(1.0)
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_restored_optimizer_takes_the_same_next_step():
    def fresh():
        model = GPT(config())
        model.init_weights(torch.Generator().manual_seed(0))
        return model, Optimizers(model, OptimizerSettings())

    def learn(model, optimizers, seed):
        idx = torch.randint(0, 265, (2, 12), generator=torch.Generator().manual_seed(seed))
        model(idx[:, :-1], idx[:, 1:]).backward()
        optimizers.step(1.0, 0.9, 1.0)
        optimizers.zero_grad()

    model, optimizers = fresh()
    for seed in range(3):
        learn(model, optimizers, seed)
    twin, twin_optimizers = fresh()
    twin.load_state_dict(model.state_dict())
    twin_optimizers.load_state_dict({k: v.clone() for k, v in optimizers.state_dict().items()})
    learn(model, optimizers, 9)
    learn(twin, twin_optimizers, 9)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True)
    )


@pytest.mark.parametrize("changes", [{}, {"mlp": "swiglu"}, {"smear": False, "backout": False}])
def test_every_weight_learns_from_exactly_one_optimizer(changes):
    model = GPT(config(**changes))
    optimizers = Optimizers(model, OptimizerSettings())
    adam = [name for group in optimizers.adamw.groups for name in group.names]
    muon = [name for names in optimizers.muon.names.values() for name in names]
    assert sorted(adam + muon) == sorted(dict(model.named_parameters()))
    assert all(name.startswith("blocks.") for name in muon)


def test_a_few_steps_lower_the_loss():
    model = GPT(config())
    model.init_weights(torch.Generator().manual_seed(0))
    optimizers = Optimizers(model, OptimizerSettings(lr_scale=0.3))
    idx = torch.randint(0, 265, (4, 33), generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(12):
        loss = model(idx[:, :-1], idx[:, 1:])
        loss.backward()
        optimizers.step(1.0, 0.9, 1.0)
        optimizers.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(265), rel=0.01)  # knows nothing yet
    assert losses[-1] < 0.7 * losses[0]


def test_the_schedule_rises_stays_and_falls():
    s = Schedule(1000, warmup_steps=10, warmdown_share=0.5, final_lr_share=0.1)
    rates = [s.lr_scale(step) for step in range(1000)]
    assert rates[0] == 0.1 and rates[9] == rates[499] == 1.0
    assert rates[999] == pytest.approx(0.1, abs=0.01) and min(rates[10:]) >= 0.1
    assert rates[500:] == sorted(rates[500:], reverse=True)
    assert s.momentum(0) == 0.85 and s.momentum(450) == pytest.approx(0.97)
    assert s.momentum(1000) == pytest.approx(0.90)
    assert s.decay_scale(0) == 1.0 and s.decay_scale(1000) == pytest.approx(0.0)
