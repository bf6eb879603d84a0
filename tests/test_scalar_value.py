"""Value: gradients by hand, against torch and against finite differences; deep, wide, no leak."""

import gc
import math
import random
import sys
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scalar_graphs import random_graph

from nanochat.scalar.value import Value, no_collector


def test_a_case_worked_out_by_hand():
    x, y = Value(0.5), Value(-2.0)
    z = (x * y).exp() + (y * y).log() - x / y + 3 * x.tanh() ** 2 + (x - y).relu()
    z.backward()
    e, t = math.exp(-1.0), math.tanh(0.5)
    assert math.isclose(z.data, e + math.log(4) + 0.25 + 3 * t * t + 2.5)
    assert math.isclose(x.grad, -2 * e + 0.5 + 6 * t * (1 - t * t) + 1)
    assert math.isclose(y.grad, 0.5 * e + 2 / -2.0 + 0.5 / 4 - 1)


def test_numbers_stand_on_either_side_of_every_operator():
    x = Value(4.0)
    results = [1 + x, x + 1, 1 - x, x - 1, 2 * x, x * 2, 2 / x, x / 2, -x, x**-1]
    assert [r.data for r in results] == [5, 5, -3, 3, 8, 8, 0.5, 2, -4, 0.25]
    sum(results).backward()
    assert math.isclose(x.grad, 1 + 1 - 1 + 1 + 2 + 2 - 2 / 16 + 0.5 - 1 - 1 / 16)


def test_gradients_add_up_over_uses_and_over_calls():
    x = Value(3.0)
    (x * x).backward()
    (x * x).backward(seed=0.5)
    assert x.grad == 9.0


def test_no_gradient_flows_through_the_maximum():
    x, y = Value(1.0), Value(5.0)
    (x + Value.minus_max([x, y])).backward()
    assert (x.grad, y.grad) == (1.0, 0.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_random_graphs_agree_with_torch_and_with_differences(seed):
    import torch

    rng = random.Random(seed)
    numbers = [rng.uniform(-1, 1) for _ in range(rng.randint(1, 4))]
    leaves = [Value(x) for x in numbers]
    value = random_graph(random.Random(seed), leaves)
    value.backward()

    ones = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in numbers]
    truth = random_graph(random.Random(seed), ones)
    truth.backward()
    found = [v.grad for v in leaves]
    expected = [0.0 if t.grad is None else t.grad.item() for t in ones]
    scale = max(1.0, *map(abs, expected))
    assert abs(value.data - truth.item()) <= 1e-10
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 1e-10 * scale

    for i in range(len(numbers)):  # central differences; relu has kinks, so most must agree
        h = 1e-6
        ends = []
        for sign in (1, -1):
            moved = [Value(x + sign * h * (j == i)) for j, x in enumerate(numbers)]
            ends.append(random_graph(random.Random(seed), moved).data)
        slope = (ends[0] - ends[1]) / (2 * h)
        assert abs(slope - found[i]) <= 1e-4 * scale


def test_a_thousand_steps_leave_no_value_behind():
    x, counts = Value(1.0), array("q", bytes(8 * 1000))
    gc.disable()  # graphs must go by themselves, without the collector of cycles
    try:
        for step in range(1000):
            x.grad = 0.0
            (sum((x * k).tanh() for k in range(5)) ** 2).backward()
            counts[step] = sys.getallocatedblocks()
    finally:
        gc.enable()
    assert counts[-1] - counts[10] < 20


@pytest.mark.slow
def test_a_million_values_in_one_chain_at_the_default_recursion_limit():
    x = Value(1.0)
    y = x
    with no_collector():
        for _ in range(1_000_000):
            y = y + x
        y.backward()
    assert (y.data, x.grad) == (1_000_001.0, 1_000_001.0)
    del y  # taking a long chain apart must not recurse either


@pytest.mark.slow
def test_twelve_layers_at_the_default_recursion_limit():
    from nanochat.scalar.engine import ObjectEngine
    from nanochat.scalar.shape import Shape

    shape = Shape("mini-gpt", 8, 3, 8, 12, 2, False, True, "relu", 0.3, 0.3)
    numbers = shape.first_parameters(random.Random(1))
    gradient = numbers * 0
    loss = ObjectEngine(shape).gradient(numbers, [0, 3, 5, 0], gradient, 1.0)
    assert math.isfinite(loss) and (abs(gradient) > 0).mean() > 0.3
