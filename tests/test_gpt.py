"""The model: pieces with gradients by hand against recorded ones, its switches, its sizes."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_models import config

from nanochat.attention import BLOCK, attend, window_mask
from nanochat.cross_entropy import CHUNK_ROWS, mean_loss, token_losses
from nanochat.fused import Mix, Norm, ReluSquared, RotateNorm
from nanochat.gpt import GPT, BadModelConfig, GPTConfig, classic

F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def agree(ours, plain, *inputs: torch.Tensor, tolerance: float = 1e-6) -> None:
    """Same result, same gradients for every input that is a float."""
    results = []
    for function in (ours, plain):
        leaves = [x.clone().requires_grad_() for x in inputs]
        y = function(*leaves)
        y.backward(drawn(*y.shape, seed=9))
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_norm_by_hand():
    y = Norm.apply(torch.tensor([3.0, 4.0, 0.0, 0.0]))  # rms = sqrt(25 / 4) = 2.5
    torch.testing.assert_close(y, torch.tensor([1.2, 1.6, 0.0, 0.0]))


def test_norm_equals_recorded_norm():
    agree(Norm.apply, lambda x: x / x.square().mean(-1, keepdim=True).sqrt(), drawn(3, 5, 8))


def test_norm_of_zeros_is_zeros_not_nan():
    assert Norm.apply(torch.zeros(2, 4)).eq(0).all()


def test_rotation_and_norm_equal_recorded_ones():
    angles = drawn(1, 5, 1, 4, seed=1)

    def plain(x):
        a, b = x.chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        turned = torch.cat((a * cos + b * sin, b * cos - a * sin), -1)
        return 1.2 * turned / turned.square().mean(-1, keepdim=True).sqrt()

    agree(lambda x: RotateNorm.apply(x, angles.cos(), angles.sin(), 1.2), plain, drawn(2, 5, 3, 8))


def test_scores_after_rotation_depend_on_the_distance_alone():
    q, k = drawn(1, 1, 1, 8), drawn(1, 1, 1, 8, seed=1)
    speeds = torch.tensor([1.0, 0.5, 0.1, 0.01], dtype=F64)

    def score(i: int, j: int) -> float:
        (cq, sq), (ck, sk) = (((p * speeds).cos(), (p * speeds).sin()) for p in (i, j))
        return float((RotateNorm.apply(q, cq, sq, 1.0) * RotateNorm.apply(k, ck, sk, 1.0)).sum())

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-12)
    assert score(7, 3) != pytest.approx(score(8, 3), abs=1e-3)


def test_relu_squared_equals_recorded_one():
    agree(ReluSquared.apply, lambda x: F.relu(x).square(), drawn(3, 7))


def test_mix_equals_recorded_one():
    agree(
        Mix.apply,
        lambda x, x0, r, a: r * x + a * x0,
        *(drawn(2, 3, 4), drawn(2, 3, 4, seed=1), drawn(1, seed=2)[0], drawn(1, seed=3)[0]),
    )


@pytest.mark.parametrize("T", [1, 7, BLOCK, 2 * BLOCK + 5])
@pytest.mark.parametrize("window", [3, 130, 10_000])
def test_block_attention_equals_masked_softmax(T, window):
    def plain(q, k, v):
        k, v = (x.repeat_interleave(2, dim=2) for x in (k, v))
        scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.size(-1))
        scores = scores.masked_fill(~window_mask(T, window, q.device), float("-inf"))
        return torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v)

    agree(
        lambda q, k, v: attend(q, k, v, window, None, causal=True),
        plain,
        *(drawn(2, T, 4, 6), drawn(2, T, 2, 6, seed=1), drawn(2, T, 2, 6, seed=2)),
        tolerance=1e-9,
    )


@pytest.mark.parametrize("cap", [0.0, 15.0])
def test_chunked_loss_equals_whole_logits(cap):
    """More rows than one chunk, ignored targets, rows of the table beyond the vocabulary."""
    x, weight = drawn(CHUNK_ROWS + 9, 8), drawn(64, 8, seed=1)
    targets = torch.randint(-1, 50, (len(x),), generator=torch.Generator().manual_seed(2))

    def plain(x, weight):
        z = (x @ weight.T)[:, :50]
        z = cap * torch.tanh(z / cap) if cap else z
        return F.cross_entropy(z, targets, ignore_index=-1)

    agree(lambda x, w: mean_loss(x, w, targets, cap, 50), plain, x, weight, tolerance=1e-9)
    with torch.no_grad():
        losses = token_losses(x, weight, targets, cap, 50)
    assert losses[targets < 0].eq(0).all()
    graded = (targets >= 0).sum()
    torch.testing.assert_close(losses.sum() / graded, plain(x, weight))


def test_a_batch_with_nothing_graded_has_loss_zero_and_no_gradient():
    x, weight = drawn(4, 8).requires_grad_(), drawn(64, 8)
    loss = mean_loss(x, weight, torch.full((4,), -1), 15.0, 50)
    loss.backward()
    assert loss == 0 and x.grad is not None and x.grad.eq(0).all()


def built(**changes) -> GPT:
    model = GPT(config(**changes))
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in model.parameters():  # no zeros: every part must matter
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) / 10)
    return model


SWITCHES = {
    "value_embeddings": False,
    "residual_scalars": False,
    "smear": False,
    "backout": False,
    "mlp": "swiglu",
    "window_pattern": "L",
    "n_kv_head": 4,
    "softcap": 0.0,
    "qk_scale": 1.0,
    "rope_base": 100.0,
}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_changes_the_model_and_still_learns(name):
    idx = torch.randint(0, 265, (2, 160), generator=torch.Generator().manual_seed(3))
    plain, other = built(), built(**{name: SWITCHES[name]})
    with torch.no_grad():
        assert not torch.allclose(plain(idx), other(idx), atol=1e-4)
    loss = other(idx[:, :-1], idx[:, 1:])
    loss.backward()
    unused = [n for n, p in other.named_parameters() if p.grad is None or not p.grad.any()]
    assert math.isfinite(loss.item()) and not unused


@pytest.mark.parametrize("changes", [{}, {"mlp": "swiglu"}, {"n_kv_head": 1}])
def test_the_future_never_changes_the_past(changes):
    model = built(**changes)
    idx = torch.randint(0, 265, (1, 140), generator=torch.Generator().manual_seed(4))
    later = idx.clone()
    later[0, 100:] = 7
    with torch.no_grad():
        torch.testing.assert_close(model(idx)[:, :100], model(later)[:, :100])


def test_gradients_of_the_whole_model_equal_finite_differences():
    model = built().double()
    model.dtype = F64
    idx = torch.randint(0, 265, (2, 20), generator=torch.Generator().manual_seed(5))
    inputs, targets = idx[:, :-1], idx[:, 1:]

    def loss() -> float:
        with torch.no_grad():
            return float(model(inputs, targets, reduction="none").double().mean())

    model(inputs, targets).backward()
    pick = torch.Generator().manual_seed(6)
    for name, weight in model.named_parameters():
        flat = weight.data.view(-1)
        assert weight.grad is not None
        slope = weight.grad.view(-1)
        place = (
            int(slope.abs().argmax())
            if "embed" in name or "values" in name
            else int(torch.randint(len(flat), (1,), generator=pick))
        )
        before, step = flat[place].item(), 1e-3
        flat[place] = before + step
        up = loss()
        flat[place] = before - step
        down = loss()
        flat[place] = before
        assert (up - down) / (2 * step) == pytest.approx(slope[place].item(), rel=0.02, abs=2e-5), (
            name
        )


def test_the_table_is_padded_but_padding_is_never_predicted():
    model = built()
    idx = torch.zeros(1, 3, dtype=torch.long)
    assert model.embed.weight.size(0) == 320
    assert model(idx).shape == (1, 3, 265)
    assert model(idx, last_only=True).shape == (1, 1, 265)


def test_windows_and_value_embeddings_follow_the_pattern():
    c = GPTConfig(sequence_len=2048, n_layer=6, window_pattern="SSSL")
    assert c.windows() == [512, 512, 512, 2048, 512, 2048]  # the last layer always sees all
    assert [c.has_value_embedding(i) for i in range(6)] == [False, True] * 3


def test_classic_turns_every_newer_feature_off():
    names = dict(GPT(classic(config(mlp="swiglu"))).named_parameters())
    assert not [
        n for n in names if n.startswith(("values", "smear", "backout", "residual", "input"))
    ]
    assert all(n.startswith(("embed", "blocks", "head")) for n in names)


@pytest.mark.parametrize(
    "changes", [{"n_head": 5}, {"n_kv_head": 3}, {"mlp": "gelu"}, {"window_pattern": "X"}]
)
def test_sizes_that_make_no_model_are_refused(changes):
    with pytest.raises(BadModelConfig):
        config(**changes)


def test_one_seed_gives_one_model():
    a, b = (GPT(config()) for _ in range(2))
    for model in (a, b):
        model.init_weights(torch.Generator().manual_seed(11))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
