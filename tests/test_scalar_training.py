"""Runs of the scalar lab: the same bits after any interruption, guards that act, honest reports.

Read: exact resume -> kill -9, full disks, broken files -> signals -> guards -> evaluation.
"""

import errno
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scalar_graphs import library_folder

from nanochat.scalar import checkpoint
from nanochat.scalar.checkpoint import BrokenCheckpoint, NoCheckpoint
from nanochat.scalar.errors import ScalarError
from nanochat.scalar.evaluate import evaluate
from nanochat.scalar.guards import Diverged, MemoryDrift, MemoryDriftGuard, resident_bytes
from nanochat.scalar.settings import ModelSettings, TrainSettings, resolve
from nanochat.scalar.text import CharTokenizer
from nanochat.scalar.training import Run, Stopped, train

TINY = {"width": 4, "heads": 2, "context": 4, "rate": 0.02}
TEXT = "anna bea cara dana eva fina gina hana ida jana kaja lea mia nina ola pia"
NAMES = TEXT.split()


@pytest.fixture(scope="session")
def cache() -> Path:
    return library_folder()


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES))
    return path


def tiny(data: Path, **more) -> TrainSettings:
    return TrainSettings(**{"data": data, "steps": 60, "checkpoint_every": 10, **TINY, **more})


def weights_of(folder: Path) -> bytes:
    arrays, _ = checkpoint.newest(folder)
    return b"".join(a.tobytes() for name, a in arrays.items())


@pytest.mark.parametrize(
    "engine", ["object", "tape", "numpy", pytest.param("torch", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(
    engine, optimizer, data, cache, tmp_path
):
    s = tiny(data, engine=engine, optimizer=optimizer, batch=2, steps=9, eval_every=4)
    whole = train(s, tmp_path / "whole", cache)
    train(replace(s, stop_at=5), tmp_path / "parts", cache)
    parts = train(replace(s, resume=True), tmp_path / "parts", cache)
    assert parts["losses"] == whole["losses"] and len(parts["losses"]) == 9
    assert parts["fingerprints"] == whole["fingerprints"]
    assert weights_of(tmp_path / "parts") == weights_of(tmp_path / "whole")
    first, second = (checkpoint.newest(tmp_path / n)[1] for n in ("whole", "parts"))
    assert first["streams"] == second["streams"] and first["order"] == second["order"]


def keep_training(data: Path, cache: Path, folder: Path) -> None:
    """What the killed process does: go on from the last checkpoint, save every step."""
    resume = bool(checkpoint.steps_of(folder))
    train(
        tiny(data, steps=10**6, checkpoint_every=1, eval_every=10**6, resume=resume), folder, cache
    )


@pytest.mark.slow
def test_two_hundred_kills_lose_at_most_a_step_and_change_no_bit(data, cache, tmp_path):
    rng = random.Random(11)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nanochat.scalar.training"])
    folder, saved, seen = tmp_path / "run", 0, set()
    train(tiny(data, steps=10**6, stop_at=1), folder, cache)  # something to go on from
    for _ in range(200):
        process = context.Process(target=keep_training, args=(data, cache, folder))
        process.start()
        before = len(checkpoint.newest(folder)[0]["losses"])
        while process.is_alive() and not list(folder.glob(f"step_*{before + 1}")):
            time.sleep(0.001)  # until it has begun to save
        time.sleep(rng.uniform(0, 0.02))
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        seen |= {path.name.split("-")[0] for path in folder.glob(".writing-*")}
        arrays, state = checkpoint.newest(folder)
        assert state["step"] == len(arrays["losses"]) >= saved
        saved = state["step"]
    assert seen, "no kill came while a checkpoint was being written"
    arrays, _ = checkpoint.newest(folder)
    truth = Run(tiny(data, steps=10**6), cache)
    assert [truth.step() for _ in range(saved)] == arrays["losses"].tolist()
    matrices = truth.shape.as_arrays(truth.parameters)
    assert all(arrays[name].tobytes() == m.tobytes() for name, m in matrices.items())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_leaves_the_older_checkpoint(code, data, cache, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    train(tiny(data, stop_at=5), folder, cache)
    before = weights_of(folder)
    real = {name: getattr(os, name) for name in ("fsync", "rename")}
    for fails_at in range(6):
        calls = 0

        def flaky(*args, fails_at=fails_at):
            nonlocal calls
            calls += 1
            if calls > fails_at:
                raise OSError(code, os.strerror(code))
            return real["fsync"](*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", flaky)
            arrays, state = checkpoint.load(checkpoint.steps_of(folder)[-1])
            try:
                checkpoint.save(folder, 6, arrays, state)
            except OSError as error:
                assert error.errno == code
            else:
                assert fails_at >= 5, "every fsync matters"
        if fails_at < 4:  # files and folder were not on the disk yet
            assert weights_of(folder) == before
            assert [path.name for path in folder.iterdir()] == ["step_000005"]
        shutil.rmtree(folder / "step_000006", ignore_errors=True)


@pytest.mark.parametrize("name", ["arrays.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_broken_checkpoint_is_passed_over_for_the_one_before(
    name, harm, data, cache, tmp_path, capsys
):
    folder = tmp_path / "run"
    whole = train(tiny(data, steps=20, eval_every=20), folder, cache)
    path = folder / "step_000020" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(content if harm == "flip" else content[: len(content) // 2])
    assert checkpoint.newest(folder)[1]["step"] == 10
    assert "trying an older one" in capsys.readouterr().err
    again = train(tiny(data, steps=20, eval_every=20, resume=True), folder, cache)
    assert again["losses"] == whole["losses"]
    assert checkpoint.newest(folder)[1]["step"] == 20, "the broken one was replaced"


def test_without_any_whole_checkpoint_there_is_a_sentence(data, cache, tmp_path):
    with pytest.raises(NoCheckpoint, match="run nanochat scalar train first"):
        checkpoint.newest(tmp_path)
    train(tiny(data, steps=1), tmp_path / "run", cache)
    (tmp_path / "run" / "step_000001" / "state.json").write_text("{}")
    with pytest.raises(BrokenCheckpoint, match="was changed after it was saved"):
        checkpoint.newest(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"tie_head": True}, "--tie-head False, not True"), ({"seed": 7}, "other text|--seed")],
)
def test_another_runs_checkpoint_is_refused(change, complaint, data, cache, tmp_path):
    train(tiny(data, steps=2), tmp_path / "run", cache)
    with pytest.raises(BrokenCheckpoint, match=complaint):
        train(tiny(data, steps=2, resume=True, **change), tmp_path / "run", cache)
    data.write_text("\n".join([*NAMES, "zoe"]))
    with pytest.raises(BrokenCheckpoint, match="was trained on other text"):
        train(tiny(data, steps=2, resume=True), tmp_path / "run", cache)


def test_a_new_run_of_the_same_name_keeps_the_old_one_aside(data, cache, tmp_path):
    train(tiny(data, steps=2), tmp_path / "run", cache)
    old = weights_of(tmp_path / "run")
    train(tiny(data, steps=3), tmp_path / "run", cache)
    assert weights_of(tmp_path / "run.previous") == old
    assert checkpoint.newest(tmp_path / "run")[1]["step"] == 3


def test_the_array_file_is_safetensors(data, cache, tmp_path):
    train(tiny(data, steps=3), tmp_path, cache)
    theirs = load_file(tmp_path / "step_000003" / "arrays.safetensors")
    ours, _ = checkpoint.newest(tmp_path)
    assert theirs.keys() == ours.keys() > {"token", "0.query", "optimizer.mean", "losses"}
    assert all(theirs[name].tobytes() == ours[name].tobytes() for name in ours)
    assert all(theirs[name].shape == ours[name].shape for name in ours)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_stops(number, data, cache, tmp_path):
    shown = []

    def show(line: str) -> None:
        shown.append(line)
        if len(shown) == 7:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Stopped):
        train(tiny(data), tmp_path / "run", cache, show)
    assert signal.getsignal(number) == before
    assert checkpoint.newest(tmp_path / "run")[1]["step"] in (7, 8)
    whole = train(tiny(data), tmp_path / "whole", cache)
    assert train(tiny(data, resume=True), tmp_path / "run", cache)["losses"] == whole["losses"]


def test_an_induced_leak_stops_training(data, cache, tmp_path, monkeypatch):
    leak, step = [], Run.step

    def leaky(self: Run) -> float:
        leak.append(b"x" * (resident_bytes() // 200))  # written, so resident
        return step(self)

    monkeypatch.setattr(Run, "step", leaky)
    settings = tiny(data, steps=400, memory_ratio=1.2, eval_every=400)
    with pytest.raises(MemoryDrift, match=r"memory grew from \d+ to \d+ MiB at step"):
        train(settings, tmp_path, cache)


def test_an_induced_leak_stops_validation(data, cache, tmp_path, monkeypatch):
    data.write_text("\n".join(f"{a}{b}" for a in NAMES for b in NAMES))
    leak = []
    run = Run(tiny(data, held_out=0.9), cache)
    loss = run.engine.loss

    def leaky(parameters: np.ndarray, document: list[int]) -> float:
        leak.append(b"x" * (resident_bytes() // 200))
        return loss(parameters, document)

    monkeypatch.setattr(run.engine, "loss", leaky)
    guard = MemoryDriftGuard(ratio=1.2)
    with pytest.raises(MemoryDrift, match="at validation"):
        run.evaluate(lambda: guard.check("validation"))


def guarded(mib: list[int], window: int, ratio: float) -> int:
    """How many checks pass when memory goes through these sizes."""
    sizes = iter(mib)
    guard = MemoryDriftGuard(window, ratio, lambda: next(sizes) << 20)
    for passed in range(len(mib)):
        try:
            guard.check("here")
        except MemoryDrift:
            return passed
    return len(mib)


def test_the_guard_looks_at_a_window_and_forgives_noise():
    assert guarded([100, 120, 140, 160], window=4, ratio=1.3) == 2
    assert guarded([100, 120, 140, 160], window=2, ratio=1.3) == 4
    assert guarded([1, 30], window=2, ratio=1.0) == 2  # 29 MiB are noise
    assert guarded([1, 40], window=2, ratio=1.0) == 1
    with pytest.raises(ScalarError, match="window 1"):
        MemoryDriftGuard(1, 2.0)


def test_resident_memory_is_measured():
    before = resident_bytes()
    block = b"x" * (64 << 20)
    assert resident_bytes() - before > 48 << 20
    del block


@pytest.mark.parametrize("engine", ["object", "tape", "numpy"])
def test_a_run_that_diverges_is_a_sentence_and_keeps_its_checkpoints(engine, data, cache, tmp_path):
    settings = tiny(
        data, engine=engine, optimizer="sgd", rate=1e200, norm=False, checkpoint_every=1
    )
    with pytest.raises(Diverged, match="lower --rate"):
        train(settings, tmp_path, cache)
    assert checkpoint.newest(tmp_path)


def test_evaluation_by_hand():
    tokenizer = CharTokenizer("aé")
    documents = [[0, 1, 0], [0, 2, 1, 2, 0]]
    losses = {2: 1.0, 4: 2.0}  # by number of predicted tokens
    found = evaluate(lambda document: losses[len(document) - 1], documents, tokenizer)
    assert found.nats_per_char == (2 * 1.0 + 4 * 2.0) / 6
    n_bytes = (1 + 1) + (2 + 1 + 2 + 1)
    assert found.bits_per_byte == pytest.approx(10 / math.log(2) / n_bytes)
    residuals = [2 - found.nats_per_char * 2, 8 - found.nats_per_char * 4]
    half = 1.96 * math.sqrt(2 * sum(r * r for r in residuals)) / 6
    assert found.interval95 == pytest.approx(half)


def test_the_report_says_what_the_checkpoint_holds(data, cache, tmp_path):
    from nanochat.scalar.report import card, write_report

    record = train(tiny(data), tmp_path, cache)
    write_report(tmp_path, record)
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["steps"] == 60 and saved["held_out"]["step"] == 60
    rows = (tmp_path / "losses.csv").read_text().split()
    assert [float(row.split(",")[1]) for row in rows[1:]] == record["losses"]
    held_out = record["held_out"]
    assert held_out["documents"] == 3 and held_out["nats_per_char"] > 0
    assert (
        f"{held_out['nats_per_char']:.4f} ±" in card(record) == (tmp_path / "report.md").read_text()
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"mode": "tensor", "engine": "tape"}, "has no engine tape: choose numpy or torch"),
        ({"mode": "scalar", "engine": "numpy"}, "has no engine numpy"),
        ({"steps": 0}, "--steps 0: it must be 1 or more"),
        ({"rate": math.nan}, "--rate nan"),
        ({"held_out": 1.0}, "--held-out 1.0"),
        ({"beta1": 1.0}, "--beta1 1.0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_impossible_settings_are_a_sentence(change, complaint, data):
    with pytest.raises(ScalarError, match=complaint):
        Run(ModelSettings(**{"data": data, **change}), None)


def test_the_engine_follows_from_the_mode_and_the_mode_from_the_engine():
    assert resolve(ModelSettings()).engine == "tape"
    assert resolve(ModelSettings(mode="tensor")).engine == "numpy"
    assert resolve(ModelSettings(engine="torch")).mode == "tensor"
    assert resolve(ModelSettings(engine="object")).eval_documents == 32
    assert resolve(ModelSettings(model="bigram"), 30).width == 30
