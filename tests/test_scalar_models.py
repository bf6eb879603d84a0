"""Four engines, one loss and one gradient; whole runs equal to the golden ones.

Read: the small grid -> the whole grid (slow) -> golden runs -> float32, the bigram's floor.
"""

import json
import random
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scalar_graphs import library_folder

from nanochat.scalar.bigram import CountBigram
from nanochat.scalar.engine import Engine, make_engine
from nanochat.scalar.errors import ScalarError
from nanochat.scalar.settings import ModelSettings, SampleSettings, TrainSettings
from nanochat.scalar.shape import Shape
from nanochat.scalar.training import Run, train

GOLDEN = Path(__file__).parent / "data"
BOTH_PRESETS = pytest.mark.parametrize("preset", [pytest.param("a", marks=pytest.mark.slow), "b"])
ENGINES = {
    "object": "auto",
    "tape": "c",
    "tape in numpy": "numpy",
    "numpy": "auto",
    "torch": "auto",
}


@pytest.fixture(scope="session")
def cache() -> Path:
    return library_folder()


def golden(preset: str) -> dict:
    return json.loads((GOLDEN / f"golden_microgpt_{preset}.json").read_text())


def engines(shape: Shape, longest: int, cache: Path) -> dict[str, Engine]:
    return {
        name: make_engine(name.split()[0], shape, longest, replay, cache)  # type: ignore[arg-type]
        for name, replay in ENGINES.items()
    }


def agree(shape: Shape, documents: list[list[int]], cache: Path) -> None:
    """Loss, gradient and scores of all engines: equal bits for the C replay, 1e-10 for others."""
    numbers = shape.first_parameters(random.Random(1))
    longest = max(len(document) - 1 for document in documents)
    truth: list[tuple] = []
    for name, engine in engines(shape, longest, cache).items():
        for i, document in enumerate(documents):
            gradient = np.full(shape.n_parameters, 0.25)  # what is there is added to
            loss = engine.gradient(numbers, document, gradient, 0.5)
            scores = np.array(engine.scores(numbers, document[:-1]))
            if name == "object":
                truth.append((loss, gradient, scores))
                continue
            found = (loss, gradient, scores)
            limit = 0.0 if name == "tape" else 1e-10
            assert engine.loss(numbers, document) == pytest.approx(loss, abs=1e-13)
            for a, b in zip(found, truth[i], strict=True):
                assert np.abs(np.subtract(a, b)).max() <= limit, (name, shape, document)


@pytest.mark.parametrize("model", ["bigram", "mini-gpt"])
@pytest.mark.parametrize("tie_head", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_engines_agree_on_every_switch(model, tie_head, norm, cache):
    activation = "relu2" if tie_head else "relu"
    shape = Shape(model, 5, 4, 4, 1 + norm, 2, tie_head, norm, activation, 0.5, 0.5)
    agree(shape, [[0, 1, 2, 1, 0], [3, 3], [4, 4, 4, 0]], cache)


@pytest.mark.slow
def test_engines_agree_on_the_whole_grid(cache):
    """tie x norm x activation x layers 1-4 x heads, and every length from 1 to 16 in turn."""
    rng = random.Random(2)
    lengths = iter(list(range(1, 17)) * 20)
    grid = product((False, True), (False, True), ("relu", "relu2"), (1, 2, 3, 4), (1, 2))
    for tie_head, norm, activation, layers, heads in grid:
        length = next(lengths)
        std = (
            0.5 if norm else 0.2
        )  # squares of squares without a norm overflow when they start large
        shape = Shape("mini-gpt", 6, 16, 4, layers, heads, tie_head, norm, activation, std, std)
        agree(shape, [[rng.randrange(6) for _ in range(length + 1)]], cache)


def test_a_tape_of_one_length_serves_every_document_of_it(cache):
    shape = Shape("mini-gpt", 6, 5, 4, 1, 2, False, True, "relu", 0.5, 0.5)
    rng = random.Random(3)
    agree(shape, [[rng.randrange(6) for _ in range(6)] for _ in range(6)], cache)


@BOTH_PRESETS
def test_the_c_replay_gives_the_golden_run_bit_for_bit_to_the_last_sample(preset, cache, tmp_path):
    from nanochat.scalar.sampling import Sampler

    truth = golden(preset)
    settings = TrainSettings(preset=preset, parity=True, replay="c")
    record = train(settings, tmp_path, cache)
    assert record["losses"] == truth["losses"]
    assert record["fingerprints"] == {k: truth["fingerprints"][k] for k in ("init", "end")}
    sampler = Sampler(SampleSettings(), tmp_path, cache)
    assert [sampler.draw() for _ in range(20)] == truth["samples"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "preset"),
    [("tape", "a"), ("tape", "b"), ("numpy", "a"), ("numpy", "b"), ("torch", "a")],
)
def test_other_engines_stay_within_1e_12_of_the_golden_run(engine, preset, cache):
    truth = golden(preset)["losses"]
    replay = "numpy" if engine == "tape" else "auto"
    run = Run(ModelSettings(preset=preset, parity=True, engine=engine, replay=replay), cache)
    for expected in truth:
        assert abs(run.step() - expected) <= 1e-12


@BOTH_PRESETS
def test_the_object_engine_takes_the_golden_steps(preset, cache):
    run = Run(ModelSettings(preset=preset, parity=True, engine="object"), cache)
    assert [run.step() for _ in range(2)] == golden(preset)["losses"][:2]


def test_float32_is_close_but_not_the_same():
    shape = Shape("mini-gpt", 6, 5, 4, 1, 2, False, True, "relu", 0.5, 0.5)
    numbers, document = shape.first_parameters(random.Random(1)), [0, 3, 5, 1, 0]
    losses = [
        make_engine("torch", shape, 5, dtype=dtype).loss(numbers, document)
        for dtype in ("float64", "float32")
    ]
    assert 0 < abs(losses[0] - losses[1]) < 1e-5


def test_a_device_that_is_not_there_is_a_sentence():
    import torch

    shape = Shape("bigram", 6, 5, 6, 0, 1, False, True, "relu", 0.5, 0.5)
    if not torch.cuda.is_available():
        with pytest.raises(ScalarError, match="use --device cpu"):
            make_engine("torch", shape, 5, device="cuda")


def test_counting_is_the_best_bigram_and_learning_comes_close(tmp_path, cache):
    """Laplace counts by hand; then a learned bigram against unsmoothed counts of the same text."""
    counts = CountBigram(3, [[0, 1, 2, 1, 0], [0, 2, 0]])
    assert counts.probability(0, 1) == (1 + 1) / (2 + 3)
    assert counts.surprises([0, 1]) == [pytest.approx(-np.log(0.4))]

    path = tmp_path / "names.txt"
    path.write_text("anna\nada\nnada\ndana\n" * 3)
    settings = ModelSettings(
        model="bigram", data=path, engine="numpy", parity=True, steps=400, rate=0.1, batch=4
    )
    run = Run(settings, None)
    for _ in range(400):
        run.step()
    documents = run.corpus.train
    exact = CountBigram(run.shape.n_tokens, documents, smoothing=0.0)
    surprises = [x for document in documents for x in exact.surprises(document)]
    lengths = [len(document) - 1 for document in documents]
    losses = [run.engine.loss(run.parameters, document) for document in documents]
    learned = np.dot(losses, lengths) / sum(lengths)
    floor = sum(surprises) / len(surprises)
    assert floor - 1e-9 <= learned <= floor + 0.02


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"heads": 3}, "choose a divisor"),
        ({"layers": -1}, "can't be negative"),
        ({"context": 0}, "context is 0"),
    ],
)
def test_an_impossible_shape_is_a_sentence(change, complaint):
    given = {"model": "mini-gpt", "n_tokens": 6, "context": 5, "width": 4, "layers": 1, "heads": 2}
    rest = {"tie_head": False, "norm": True, "activation": "relu", "init_std": 0.1, "out_std": 0.1}
    with pytest.raises(ScalarError, match=complaint):
        Shape(**{**given, **rest, **change})


def test_a_tape_that_would_not_fit_is_refused_before_it_is_recorded(cache):
    shape = Shape("mini-gpt", 6, 512, 64, 4, 2, False, True, "relu", 0.1, 0.1)
    with pytest.raises(ScalarError, match="use --mode tensor"):
        make_engine("tape", shape, 512, "auto", cache)
