"""The tape: any graph of scalars, replayed in C to the same bits and in numpy to 1e-12.

The slower truth is Value. Read: by hand -> random graphs -> order matters -> the C library.
"""

import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scalar_graphs import library_folder, random_graph

from nanochat.scalar import tape_c
from nanochat.scalar.errors import ScalarError
from nanochat.scalar.optimizer import Optimizer
from nanochat.scalar.rows import ADD, CONSTANT, EXP, LOG, MUL, PARAMETER, RELU, TANH
from nanochat.scalar.tape import Node, Tape
from nanochat.scalar.tape_c import library_or_none
from nanochat.scalar.value import Value

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def cache() -> Path:
    return library_folder()


@pytest.mark.parametrize("backend", ["c", "numpy"])
def test_a_case_worked_out_by_hand(backend, cache):
    tape = Tape()
    x, y = tape.parameters(2)
    program = tape.compile([x * y + x**2, x - 1], backend, cache)
    assert program.forward([3.0, -2.0]).tolist() == [3.0, 2.0]
    assert program.backward().tolist() == [4.0, 3.0]
    assert program.backward(np.array([1.0, 1.0]), seed=2.0).tolist() == [9.0, 7.0]
    assert program.forward([1.0, 1.0]).tolist() == [2.0, 0.0]


@pytest.mark.parametrize("backend", ["c", "numpy"])
def test_inputs_picks_and_maxima_change_from_replay_to_replay(backend, cache):
    tape = Tape()
    x, y = tape.parameters(2)
    scale, which = tape.input(), tape.new_pick()
    program = tape.compile(
        Node.pick([x, y], which) * scale + Node.minus_max([x, y]), backend, cache
    )
    assert program.forward([3.0, 5.0], [10.0], [0]).tolist() == [25.0]
    assert program.backward().tolist() == [10.0, 0.0]
    assert program.forward([7.0, 5.0], [2.0], [1]).tolist() == [3.0]
    assert program.backward().tolist() == [0.0, 2.0]
    with pytest.raises(IndexError, match="not all in 0"):
        program.forward([7.0, 5.0], [2.0], [2])


@pytest.mark.parametrize("backend", ["c", "numpy"])
def test_a_result_may_be_a_leaf_or_a_constant(backend, cache):
    tape = Tape()
    x, _ = tape.parameters(2)
    assert tape.compile(x, backend, cache).forward([3.0, 4.0]).tolist() == [3.0]
    program = tape.compile(x, backend, cache)
    program.forward([3.0, 4.0])
    assert program.backward(seed=0.5).tolist() == [0.5, 0.0]
    constant = tape.compile(tape.node(2.5), backend, cache)
    assert constant.forward([0.0, 0.0]).tolist() == [2.5]
    assert constant.backward().tolist() == [0.0, 0.0]


def replay(backend: str, cache: Path, seed: int, numbers: list[float], choices: list[list[int]]):
    """Result and gradient of one random graph for several sets of choices."""
    tape, which = Tape(), []

    def picks(options: list[Node]) -> Node:
        which.append(tape.new_pick())
        return Node.pick(options, which[-1])

    root = random_graph(random.Random(seed), tape.parameters(len(numbers)), picks=picks)
    program = tape.compile(root, backend, cache)  # type: ignore[arg-type]
    for chosen in choices:
        result = float(program.forward(numbers, (), chosen[: len(which)])[0])
        yield result, program.backward().tolist()


def values(seed: int, numbers: list[float], chosen: list[int]) -> tuple[float, list[float]]:
    left = iter(chosen)
    leaves = [Value(x) for x in numbers]
    picks = lambda options: Value.pick(options, next(left))  # noqa: E731
    root = random_graph(random.Random(seed), leaves, picks=picks)
    root.backward()
    return root.data, [leaf.grad for leaf in leaves]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32))
def test_random_graphs_have_the_bits_of_value_in_c_and_twelve_digits_in_numpy(cache, seed):
    rng = random.Random(seed)
    numbers = [rng.uniform(-1, 1) for _ in range(rng.randint(1, 5))]
    choices = [[rng.randrange(2) for _ in range(60)] for _ in range(3)]
    truth = [values(seed, numbers, chosen) for chosen in choices]
    assert list(replay("c", cache, seed, numbers, choices)) == truth
    for (result, gradient), (expected, slopes) in zip(
        replay("numpy", cache, seed, numbers, choices), truth, strict=True
    ):
        scale = max(1.0, abs(expected), *map(abs, slopes))
        assert abs(result - expected) <= 1e-12 * scale
        assert np.abs(np.subtract(gradient, slopes)).max() <= 1e-12 * scale


def gradient_in_recorded_order(tape: Tape, root: Node, numbers: list[float]) -> list[float]:
    """As good as the depth-first order for calculus: the rows backwards, one by one."""
    rows, made = tape.rows(), []
    for op, left, right in zip(rows.ops, rows.left, rows.right, strict=True):
        if op == PARAMETER:
            made.append(Value(numbers[left]))
        elif op == CONSTANT:
            made.append(Value(rows.constants[left]))
        elif op in (ADD, MUL):
            made.append(made[left] + made[right] if op == ADD else made[left] * made[right])
        else:
            name = {EXP: "exp", LOG: "log", RELU: "relu", TANH: "tanh"}.get(op)
            a = made[left]
            made.append(getattr(a, name)() if name else a ** rows.constants[right])
    made[root.index].grad = 1.0
    for value in reversed(made):
        for source, slope in zip(value.inputs, value.slopes, strict=True):
            source.grad += slope * value.grad
    return [value.grad for value in made[: len(numbers)]]


def test_the_order_of_additions_shows_in_the_last_bits(cache):
    """If it did not, the tests of equal bits above would prove little."""
    differing = 0
    for seed in range(40):
        rng = random.Random(seed)
        numbers = [rng.uniform(-1, 1) for _ in range(3)]
        tape = Tape()
        root = random_graph(random.Random(seed), tape.parameters(3), size=60)
        program = tape.compile(root, "c", cache)
        program.forward(numbers)
        found, other = program.backward(), gradient_in_recorded_order(tape, root, numbers)
        assert np.allclose(found, other, rtol=1e-9, atol=1e-12)
        differing += found.tolist() != other
    assert differing > 10


@pytest.mark.parametrize("backend", ["c", "numpy"])
def test_a_long_chain_and_a_wide_sum(backend, cache):
    tape = Tape()
    (x,) = tape.parameters(1)
    y = x
    for _ in range(3000):
        y = (y + x).relu()
    wide = sum(x * x for _ in range(3000))
    program = tape.compile(y + wide, backend, cache)
    assert program.forward([0.5]).tolist() == [3001 * 0.5 + 3000 * 0.25]
    assert program.backward().tolist() == [3001 + 3000.0]


def test_adam_in_c_has_the_bits_of_python_for_numbers_of_every_size(cache):
    """Squares and roots by the short way, too, are libm's pow (see run.c)."""
    library = library_or_none(cache, required=True)
    rng = random.Random(7)
    n = 20_000
    sizes = [rng.choice((0, 1e-200, 1e-30, 1e-8, 1e-3, 1.0, 1e8, 1e170)) for _ in range(n)]
    gradient = np.array([rng.uniform(-1, 1) * size for size in sizes])
    runs = []
    for kernel in ("python", "c"):
        optimizer = Optimizer("adamw", n, decay=0.1, kernel=kernel, library=library)
        parameters = np.linspace(-1, 1, n)
        for step in range(3):
            with np.errstate(over="ignore"):
                optimizer.step(parameters, np.clip(gradient * (step + 1), -1e150, 1e150), 0.01)
        runs.append((parameters.tobytes(), optimizer.mean.tobytes(), optimizer.square.tobytes()))
    assert runs[0] == runs[1]


def test_without_a_compiler_one_sentence_and_numpy(tmp_path):
    program = (
        "from nanochat.scalar.tape import Tape\nfrom pathlib import Path\nimport sys\n"
        "tape = Tape()\n(x,) = tape.parameters(1)\n"
        "for _ in range(2):\n"
        "    print(type(tape.compile(x * x, 'auto', Path(sys.argv[1]))).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "cache")],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["NumpyProgram", "NumpyProgram"]
    assert done.stderr.count("\n") == 1 and "no C compiler was found" in done.stderr


def test_a_compiler_that_fails_is_named_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    broken = tmp_path / "bin" / "cc"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho out of ink >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(broken.parent))
    with pytest.raises(ScalarError, match=r"could not compile the tape \(out of ink\)"):
        library_or_none(tmp_path / "cache", required=True)
    assert not list((tmp_path / "cache").iterdir())


def test_the_library_is_compiled_once_and_renamed_into_place(cache):
    first = tape_c.compile_library(cache)
    made = first.stat().st_mtime_ns
    assert tape_c.compile_library(cache) == first and first.stat().st_mtime_ns == made
    assert list(cache.iterdir()) == [first]


def test_programs_give_their_memory_back(cache):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    tape = Tape()
    (x,) = tape.parameters(1)
    root = sum((x * k).tanh() for k in range(2000))
    sizes = []
    for _ in range(60):
        program = tape.compile(root, "c", cache)
        program.forward([0.1])
        program.backward()
        del program
        sizes.append(resident())
    assert sizes[-1] - sizes[10] < 2 * 256  # pages of 4 KiB: one program has about 500


@pytest.mark.slow
def test_a_million_rows_are_recorded_planned_and_replayed(cache):
    from nanochat.scalar.bench import chains, weights_for

    numbers = weights_for(1_000_000).tolist()
    tape = Tape()
    program = tape.compile(chains(tape.parameters(len(numbers)), 1_000_000), "c", cache)
    leaves = [Value(x) for x in numbers]
    truth = chains(leaves, 1_000_000)
    truth.backward()
    assert program.forward(numbers).tolist() == [truth.data]
    assert program.backward().tolist() == [leaf.grad for leaf in leaves]
    assert len(tape) > 900_000


def test_constants_keep_the_sign_of_zero(cache):
    tape = Tape()
    (x,) = tape.parameters(1)
    program = tape.compile([x + -0.0, x + 0.0, x * -1.0], "c", cache)
    found = program.forward([-0.0])
    signs = [struct.pack(">d", v)[0] >> 7 for v in found]
    expected = [Value(-0.0) + -0.0, Value(-0.0) + 0.0, Value(-0.0) * -1.0]
    assert signs == [struct.pack(">d", v.data)[0] >> 7 for v in expected]
