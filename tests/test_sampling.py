"""Sampling against slow truths: top-k and top-p by hand, frequencies by chi-square."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.sampling import (
    BadSampling,
    BrokenScores,
    Sampling,
    distribution,
    draw,
    sample,
)


def slow_chances(logits: list[float], s: Sampling) -> list[float]:
    """Sort, cut, renormalise, one row and one number at a time."""
    top = max(logits)
    weights = {i: math.exp((z - top) / s.temperature) for i, z in enumerate(logits)}
    order = sorted(weights, key=weights.__getitem__, reverse=True)
    if s.top_k:
        order = order[: s.top_k]
    if s.top_p < 1:
        total, held, kept = sum(weights[i] for i in order), 0.0, []
        for i in order:
            if held >= s.top_p * total:
                break
            kept.append(i)
            held += weights[i]
        order = kept
    total = sum(weights[i] for i in order)
    return [weights[i] / total if i in order else 0.0 for i in range(len(logits))]


@given(
    st.integers(0, 2**32),
    st.floats(0.1, 3.0),
    st.sampled_from([0, 1, 2, 5, 17, 100]),
    st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
)
@settings(max_examples=150, deadline=None, derandomize=True)  # no example lies on an edge
def test_top_k_and_top_p_agree_with_a_slow_truth(seed, temperature, top_k, top_p):
    logits = torch.randn(17, generator=torch.Generator().manual_seed(seed)) * 3
    s = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    truth = slow_chances(logits.tolist(), s)
    assert distribution(logits[None], [s])[0].tolist() == pytest.approx(truth, abs=1e-5)


def test_a_hand_worked_nucleus():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    half = distribution(logits, [Sampling(temperature=1, top_k=0, top_p=0.5)])
    more = distribution(logits, [Sampling(temperature=1, top_k=0, top_p=0.6)])
    assert half[0].tolist() == pytest.approx([1, 0, 0, 0])
    assert more[0].tolist() == pytest.approx([0.625, 0.375, 0, 0])


def test_rows_with_different_settings_do_not_touch_each_other():
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)) * 4
    each = [
        Sampling(temperature=0),
        Sampling(temperature=1, top_k=0),
        Sampling(temperature=0.5, top_k=3),
        Sampling(temperature=1, top_k=0, top_p=0.7),
        Sampling(temperature=2, top_k=40, top_p=0.9),
        Sampling(temperature=1, top_k=1),
    ]
    together = distribution(logits, each)
    for i, s in enumerate(each):
        assert torch.equal(together[i], distribution(logits[i : i + 1], [s])[0])


def test_drawing_follows_the_softmax_by_chi_square():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0, 0.5]])
    s = Sampling(temperature=0.8, top_k=0)
    n, dice = 20_000, random.Random(7)
    chances = distribution(logits, [s])[0]
    drawn = draw(chances.expand(n, -1), [dice.random() for _ in range(n)])
    counts = torch.bincount(drawn, minlength=6)
    expected = chances.double() * n
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 20.5  # 5 degrees of freedom: a right sampler exceeds it once in a thousand
    wrong = logits[0].double().softmax(-1) * n  # forgot the temperature: must be told apart
    assert ((counts - wrong) ** 2 / wrong).sum() > 20.5


def test_temperature_zero_takes_the_argmax_whatever_else_is_set():
    logits = torch.randn(8, 100, generator=torch.Generator().manual_seed(1))
    cold = [Sampling(temperature=0, top_k=5, top_p=0.3)] * 8
    assert sample(logits, cold, [0.999] * 8) == logits.argmax(-1).tolist()
    mixed = [*cold[:4], *[Sampling(temperature=1)] * 4]
    assert sample(logits, mixed, [0.999] * 8)[:4] == logits[:4].argmax(-1).tolist()


def test_of_two_best_tokens_temperature_zero_takes_the_first_whatever_the_dice():
    logits = torch.tensor([[1.0, 4.0, 4.0], [1.0, 4.0, 4.0]])
    assert sample(logits, [Sampling(temperature=0), Sampling(temperature=1)], [0.99] * 2) == [1, 2]


def test_top_p_of_one_keeps_even_the_least_likely_token():
    logits = torch.tensor([[0.0, -25.0, -30.0], [0.0, -25.0, -30.0]])
    each = [Sampling(temperature=1, top_k=0), Sampling(temperature=1, top_k=0, top_p=0.5)]
    assert (distribution(logits, each) > 0).tolist() == [[True] * 3, [True, False, False]]


def test_a_tiny_temperature_is_the_argmax_and_a_huge_one_is_uniform():
    logits = torch.tensor([[1.0, 3.0, 2.0, -40.0]])
    for temperature in (1e-9, 1e-300):
        s = Sampling(temperature=temperature, top_k=0)
        assert distribution(logits, [s])[0].tolist() == [0, 1, 0, 0]
    s = Sampling(temperature=1e300, top_k=0)
    assert distribution(logits, [s])[0].tolist() == pytest.approx([0.25] * 4)


def test_tokens_that_tie_with_the_kth_stay():
    logits = torch.tensor([[1.0, 5.0, 1.0, 0.0]])
    s = Sampling(temperature=1, top_k=2)
    assert (distribution(logits, [s])[0] > 0).tolist() == [True, True, True, False]


def test_the_ends_of_the_dice_point_at_possible_tokens():
    chances = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).expand(4, -1)
    dice = [0.0, 0.2499, 0.25, math.nextafter(1, 0)]
    assert draw(chances, dice).tolist() == [1, 1, 3, 3]


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_the_largest_die_points_at_the_last_possible_token_whatever_the_rounding(seed):
    chances = torch.rand(20, 9, generator=torch.Generator().manual_seed(seed))
    chances[:, 6:] = 0
    assert draw(chances, [math.nextafter(1, 0)] * 20).tolist() == [5] * 20


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_a_token_without_a_chance_is_never_drawn(seed):
    g = torch.Generator().manual_seed(seed)
    chances = torch.rand(20, 30, generator=g).where(torch.rand(20, 30, generator=g) < 0.3, 0)
    chances[:, 7] += 1e-6
    chances /= chances.sum(-1, keepdim=True)
    dice = torch.rand(20, generator=g, dtype=torch.float64).tolist()
    assert (chances.gather(1, draw(chances, dice)[:, None]) > 0).all()


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1}, {"temperature": math.nan}, {"temperature": math.inf},
        {"temperature": "hot"}, {"temperature": True}, {"top_k": -1}, {"top_k": 1.5},
        {"top_p": 0}, {"top_p": 1.01}, {"top_p": math.nan}, {"max_tokens": 0},
        {"max_tokens": 1.0}, {"max_tokens": True}, {"seed": 2**63}, {"seed": None},
    ],
)  # fmt: skip
def test_a_bad_setting_is_refused_by_name(bad):
    with pytest.raises(BadSampling, match=next(iter(bad))):
        Sampling(**bad)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_an_error_not_a_token(broken):
    logits = torch.zeros(2, 5)
    logits[1, 3] = broken
    for temperature in (0.0, 1.0):
        with pytest.raises(BrokenScores):
            sample(logits, [Sampling(temperature=temperature)] * 2, [0.5, 0.5])


def test_the_smallest_top_p_there_is_keeps_the_best_token():
    scores = torch.tensor([[1.0, 3.0, 2.0]])
    assert sample(scores, [Sampling(temperature=1.0, top_k=0, top_p=5e-324)], [0.999]) == [1]
