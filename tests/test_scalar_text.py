"""Documents, tokens, held-out documents, schedules, optimizers, streams: the lab's small parts."""

import ast
import hashlib
import math
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.scalar import streams
from nanochat.scalar.errors import ScalarError
from nanochat.scalar.optimizer import Optimizer
from nanochat.scalar.schedules import rate_at
from nanochat.scalar.settings import ModelSettings
from nanochat.scalar.statistics import interval, t_quantile
from nanochat.scalar.streams import CONSTANTS, Streams
from nanochat.scalar.text import (
    NAMES,
    BadText,
    CharTokenizer,
    open_corpus,
    read_documents,
    windows,
)
from nanochat.scalar.training import Run

ROOT = Path(__file__).parent.parent
LAB = [*sorted((ROOT / "nanochat" / "scalar").glob("*.py")), ROOT / "scripts" / "scalar.py"]


def test_the_embedded_names_are_the_census_names():
    digest = hashlib.sha256(NAMES.read_bytes()).hexdigest()
    assert digest == "cba14f452b7768bd7fe093035a67491d4a334061634ccfd51522fb796910e75e"
    assert len(read_documents(NAMES)) == 5163


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "has no text: give one document a line"),
        (b" \n\n\t\n", "has no text"),
        (b"a", "has one character only"),
        (b"\n a \n", "has one character only"),
        (b"ab\xff\n", "is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_learned_from_is_a_sentence(content, complaint, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(BadText, match=complaint):
        read_documents(path)
    with pytest.raises(BadText, match="can't be read"):
        read_documents(tmp_path / "missing.txt")


@given(st.text(min_size=1), st.booleans())
def test_any_text_comes_back_from_its_tokens(text, bos_last):
    tokenizer = CharTokenizer(text, bos_last)
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokens[0] == tokens[-1] == (len(tokenizer) - 1 if bos_last else 0)
    assert set(tokens) <= set(range(len(tokenizer)))
    try:
        size = len(text.encode()) + 1
    except UnicodeEncodeError:  # half of a surrogate pair has no UTF-8
        return
    assert tokenizer.bytes_of(tokens[1:]) == size


def test_a_character_the_model_never_saw_is_a_sentence():
    with pytest.raises(BadText, match="'7' was not in the training text: use 'abc'"):
        CharTokenizer("abc").ids("ab7")


@given(st.lists(st.integers(0, 9), min_size=2, max_size=60), st.integers(1, 20))
def test_windows_predict_every_token_once(tokens, context):
    pieces = windows(tokens, context)
    assert [t for piece in pieces for t in piece[1:]] == tokens[1:]
    assert all(2 <= len(piece) <= context + 1 for piece in pieces)
    assert all(a[-1] == b[0] for a, b in pairwise(pieces))


@given(st.integers(1, 60), st.floats(0, 0.99), st.integers(0, 99))
def test_the_split_is_a_partition_of_documents(tmp_path_factory, n, held_out, seed):
    path = tmp_path_factory.mktemp("split") / "text.txt"
    lines = [f"x{i}" for i in range(n)]
    path.write_text("\n".join(lines))
    corpus = open_corpus(path, Streams(seed), 8, held_out, "classic", parity=False)
    decode = corpus.tokenizer.decode
    learn, out = ([decode(d) for d in part] for part in (corpus.train, corpus.held_out))
    assert Counter(learn + out) == Counter(lines) and learn
    if held_out and n > 1:
        assert len(out) == min(max(round(held_out * n), 1), n - 1)


def test_the_futuristic_style_adds_to_learning_only(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("ab\ncd\nef\ngh\n")
    classic, futuristic = (
        open_corpus(path, Streams(1), 8, 0.25, style, parity=False)  # type: ignore[arg-type]
        for style in ("classic", "futuristic")
    )
    assert len(futuristic.train) > len(classic.train) == 3
    held_out = [c.tokenizer.decode(c.held_out[0]) for c in (classic, futuristic)]
    assert held_out[0] == held_out[1] and len(futuristic.held_out) == 1
    assert classic.fingerprint != futuristic.fingerprint


@given(
    st.sampled_from(["constant", "linear", "cosine", "1-sqrt"]),
    st.floats(1e-6, 10),
    st.integers(1, 500),
)
def test_schedules_fall_from_the_rate_towards_zero(schedule, rate, steps):
    rates = [rate_at(schedule, rate, step, steps) for step in range(steps)]
    assert rates[0] == rate
    assert all(a >= b > 0 for a, b in pairwise(rates)) or steps == 1
    if schedule != "constant" and steps > 100:
        assert rates[-1] < rate / 20


def test_schedules_worked_out_by_hand():
    assert rate_at("linear", 1.0, 1, 4) == 0.75
    assert rate_at("cosine", 1.0, 2, 4) == pytest.approx(0.5)
    assert rate_at("1-sqrt", 1.0, 1, 4) == 0.5
    assert rate_at("constant", 1.0, 3, 4) == 1.0


def test_first_steps_of_the_optimizers_by_hand():
    gradient = np.array([0.5, -2.0])
    for kernel in ("python", "numpy"):
        found = {}
        for kind in ("sgd", "adam", "adamw"):
            found[kind] = np.array([1.0, 1.0])
            optimizer = Optimizer(kind, 2, 0.8, 0.9, 0.1, kernel)  # type: ignore[arg-type]
            optimizer.step(found[kind], gradient, 0.01)
        assert found["sgd"] == pytest.approx([0.995, 1.02])
        assert found["adam"] == pytest.approx([0.99, 1.01])  # the first step is the sign
        assert found["adamw"] == pytest.approx([0.989, 1.009])


@pytest.mark.slow  # torch.optim takes seconds to import
@pytest.mark.parametrize("kernel", ["python", "numpy"])
@pytest.mark.parametrize(("kind", "decay"), [("sgd", 0.0), ("adam", 0.0), ("adamw", 0.1)])
def test_optimizers_agree_with_torch(kind, decay, kernel):
    import torch

    rng = random.Random(4)
    start = np.array([rng.uniform(-1, 1) for _ in range(30)])
    theirs = torch.nn.Parameter(torch.tensor(start))
    makers = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
        "adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.9)),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.9), weight_decay=decay),
    }
    truth = makers[kind]([theirs])
    ours, optimizer = start.copy(), Optimizer(kind, 30, 0.8, 0.9, decay, kernel)
    for _ in range(10):
        gradient = np.array([rng.gauss(0, 1) for _ in range(30)])
        theirs.grad = torch.tensor(gradient)
        truth.step()
        optimizer.step(ours, gradient, 0.1)
    assert np.abs(ours - theirs.detach().numpy()).max() < 1e-10


def test_each_stream_is_the_seed_xor_a_constant_that_follows_from_its_name():
    for name, constant in CONSTANTS.items():
        assert constant == int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        assert Streams(5)[name].random() == random.Random(5 ^ constant).random()
        assert f"{name:<8} {constant:016x}" in (streams.__doc__ or ""), "the documented table"


def test_streams_do_not_disturb_each_other_and_can_be_restored():
    one, other = Streams(3), Streams(3)
    for _ in range(100):
        one["sample"].random()
    assert one["init"].random() == other["init"].random()
    state = one.state()
    ahead = [one[name].gauss(0, 1) for name in CONSTANTS]
    other.restore(state)
    assert [other[name].gauss(0, 1) for name in CONSTANTS] == ahead


def test_no_draw_in_the_lab_is_unseeded():
    """random is used for random.Random(seed) only, numpy's and torch's generators not at all."""
    generators = 0
    for path in [*LAB, ROOT / "microgpt.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                name = ast.unparse(node)
                assert not name.startswith(("np.random", "torch.rand", "torch.normal")), path
                assert not name.startswith("random.") or name == "random.Random", (path, name)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "random.Random":
                generators += 1
                assert node.args, f"{path}: a generator without a seed"
    assert generators >= 3


def test_a_run_draws_nothing_from_the_global_generators(tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(["anna", "bea", "cara", "dana"] * 3))
    settings = ModelSettings(data=path, engine="numpy", steps=6)
    random.seed(1), np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[index]
    losses = []
    for _ in range(2):
        run = Run(settings, None)
        losses.append([run.step() for _ in range(6)])
        run.evaluate()
    assert losses[0] == losses[1]
    after = random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[index]
    assert before == after
    other = Run(ModelSettings(data=path, engine="numpy", steps=6, seed=7), None)
    assert [other.step() for _ in range(6)] != losses[0]


def test_a_seed_out_of_range_is_a_sentence():
    for seed in (-1, 2**63):
        with pytest.raises(ScalarError, match="choose another"):
            Streams(seed)


@pytest.mark.parametrize(
    ("confidence", "freedom", "expected"),
    [(0.95, 1, 12.706), (0.95, 2, 4.303), (0.95, 9, 2.262), (0.99, 4, 4.604), (0.95, 1000, 1.962)],
)
def test_students_t_is_the_table(confidence, freedom, expected):
    assert t_quantile(confidence, freedom) == pytest.approx(expected, abs=6e-4)


def test_an_interval_worked_out_by_hand():
    mean, half = interval([1.0, 2.0, 4.0, 5.0], 0.95)
    assert mean == 3.0 and half == pytest.approx(3.182446 * math.sqrt(10 / 3 / 4), abs=1e-5)
    assert interval([7.0], 0.95) == (7.0, None)
