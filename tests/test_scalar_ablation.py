"""Ablations: effects by hand, identical files after any kill, every kind of axis."""

import csv
import json
import multiprocessing
import os
import random
import signal
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from scalar_graphs import library_folder

from nanochat.scalar.ablation import Axis, base_of, cells, effects, parse_axis, run_study
from nanochat.scalar.ablation_report import write_study
from nanochat.scalar.errors import ScalarError
from nanochat.scalar.settings import AblateSettings, ModelSettings

FILES = ("results.csv", "results.jsonl", "results.json", "report.md", "effects.svg")


@pytest.fixture(scope="session")
def cache() -> Path:
    return library_folder()


@pytest.fixture
def settings(tmp_path) -> AblateSettings:
    path = tmp_path / "names.txt"
    path.write_text("anna\nbea\ncara\ndana\neva\nfina\ngina\nhana\nida\njana\nkaja\nlea\n")
    return AblateSettings(
        data=path, width=4, heads=2, context=4, steps=8, held_out=0.3, seeds=2, axes=("norm",)
    )


def study(settings: AblateSettings, folder: Path, cache: Path) -> list[dict]:
    axes, rows, timings = run_study(settings, folder, cache)
    write_study(folder, base_of(settings), axes, rows, timings, effects(axes, rows))
    return rows


def test_effects_worked_out_by_hand():
    axes = [Axis("norm", (True, False)), Axis("layers", (1, 2))]
    scores = {(True, 1): 2.0, (True, 2): 1.5, (False, 1): 3.0, (False, 2): 2.7}
    rows = [
        {"norm": n, "layers": layers, "seed": seed, "mean_loss_last_50": 9.0}
        | {"held_out_nats_per_char": score + seed * 0.1 * (layers == 2)}
        for (n, layers), score in scores.items()
        for seed in (1, 2)
    ]
    norm, layers = effects(axes, rows)
    assert (norm.axis, norm.base, norm.value) == ("norm", True, False)
    assert norm.by_seed == pytest.approx([1.1, 1.1]) and norm.interval95 == pytest.approx(0)
    assert layers.by_seed == pytest.approx([-0.3, -0.2]) and layers.mean == pytest.approx(-0.25)
    assert layers.interval95 == pytest.approx(12.706 * 0.05, abs=1e-3)
    assert layers.interval95_all == pytest.approx(25.452 * 0.05, abs=1e-3)


def test_axes_are_read_as_their_settings_types():
    base = ModelSettings(norm=False)
    assert parse_axis("norm", base) == Axis("norm", (False, True))
    assert parse_axis("tie-head=true,false", base).values == (True, False)
    assert parse_axis("layers=1,2", base).values == (1, 2)
    assert parse_axis("rate=0.1,1e-3", base).values == (0.1, 1e-3)
    assert parse_axis("schedule=linear,1-sqrt", base).values == ("linear", "1-sqrt")
    assert parse_axis("engine=object,tape,numpy,torch", base).name == "engine"
    for wrong in (
        "nrom",
        "seed=1,2",
        "layers",
        "layers=1",
        "layers=1,x",
        "schedule=a,b",
        "norm=7,8",
    ):
        with pytest.raises(ScalarError, match="--axes"):
            parse_axis(wrong, base)


def test_half_of_a_study_keeps_every_value_its_share(settings):
    s = replace(settings, axes=("norm", "tie_head", "layers=1,2"), seeds=1, fraction="half")
    axes = [parse_axis(text, s) for text in s.axes]
    chosen = cells(s, axes)
    assert len(chosen) == 4
    for axis in axes:
        values = [getattr(cell.settings, axis.name) for cell in chosen]
        assert [values.count(value) for value in axis.values] == [2, 2]


@pytest.mark.slow
def test_a_study_leaves_files_for_people_and_for_programs(settings, cache, tmp_path):
    s = replace(settings, axes=("norm", "engine=tape,numpy"))
    rows = study(s, tmp_path / "study", cache)
    assert len(rows) == 8 and len({row["cell"] for row in rows}) == 8
    folder = tmp_path / "study"
    with open(folder / "results.csv") as file:
        table = list(csv.DictReader(file))
    assert [float(r["final_loss"]) for r in table] == [r["final_loss"] for r in rows]
    lines = (folder / "results.jsonl").read_text().splitlines()
    whole = json.loads((folder / "results.json").read_text())
    assert [json.loads(line) for line in lines] == rows == whole["cells"]
    engine = next(e for e in whole["effects"] if e["axis"] == "engine")
    assert abs(engine["mean"]) < 1e-9, "two engines, one result"
    assert len(ET.parse(folder / "effects.svg").findall(".//{*}circle[@class='mean']")) == 2
    assert "| norm | True | False |" in (folder / "report.md").read_text()
    assert "steps_per_s" in (folder / "timing.csv").read_text()
    assert not any("steps_per_s" in (folder / name).read_text() for name in FILES)


def test_finished_cells_are_not_run_again_and_changed_settings_are(settings, cache, tmp_path):
    counts = []
    for s in (settings, settings, replace(settings, steps=9), replace(settings, seeds=3)):
        shown: list[str] = []
        run_study(s, tmp_path, cache, shown.append)
        counts.append(len(shown))
    assert counts == [4, 0, 4, 2]


def test_a_cell_that_diverges_is_reported_not_hidden(settings, cache, tmp_path):
    s = replace(settings, norm=False, optimizer="sgd", axes=("rate=0.01,1e200",))
    rows = study(s, tmp_path, cache)
    assert [row["diverged"] for row in rows] == [False, False, True, True]
    assert json.loads((tmp_path / "results.json").read_text())["effects"] == []
    assert "| 1e+200 |" in (tmp_path / "report.md").read_text()


def test_an_axis_twice_is_refused(settings, cache, tmp_path):
    with pytest.raises(ScalarError, match="each axis once"):
        run_study(replace(settings, axes=("norm", "norm")), tmp_path, cache)


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_with_the_same_bytes(settings, cache, tmp_path):
    s = replace(settings, axes=("norm", "tie_head", "optimizer=adam,sgd"), steps=60, seeds=2)
    study(s, tmp_path / "whole", cache)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nanochat.scalar.ablation_report"])
    rng, kills = random.Random(3), 0
    folder = tmp_path / "killed"
    while True:
        process = context.Process(target=study, args=(s, folder, cache))
        process.start()
        done = len(list(folder.glob("cells/*.json")))
        while process.is_alive() and len(list(folder.glob("cells/*.json"))) <= done:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        assert process.pid
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode == 0:
            break
        kills += 1
    assert kills >= 5
    for name in FILES:
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
