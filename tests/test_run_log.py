"""What a run leaves: a log that survives resuming, its config, its pictures, Weights & Biases."""

import json
import sys
from pathlib import Path

import pytest
from test_training import a_run, base, loader  # noqa: F401  `base` is a fixture

from nanochat.run_log import RunLog, WandbMissing, read_log
from nanochat.train_loop import LoopSettings, restore, resume_point, train


def test_every_run_leaves_a_log_its_config_and_pictures(base):  # noqa: F811
    run = a_run(loader(), steps=4)
    train(run, LoopSettings(eval_every=2, log_every=1))
    rows = read_log(run.folder / "log.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert [(row["step"], row["val_bpb"]) for row in rows if "val_bpb" in row] == [
        (point[0], point[2]) for point in run.state.curve
    ]
    assert json.loads((run.folder / "config.json").read_text()) == run.provenance
    for name in ("loss.svg", "val_bpb.svg"):
        assert (run.folder / name).read_text().startswith("<svg")
    assert not (run.folder / "reward.svg").exists()  # nothing was measured


def test_a_resumed_run_drops_what_came_after_its_checkpoint(base):  # noqa: F811
    train(a_run(loader(), steps=4), LoopSettings(save_every=2, log_every=1))
    checkpoint = resume_point("sft", "t", LoopSettings(resume=True))
    assert checkpoint is not None
    folder = checkpoint.path.parent
    log = folder / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 9, "loss": 1.0}\n{"step": 4, "lo')  # a crash
    again = a_run(loader(state=checkpoint.meta["batches"]), steps=6)
    restore(again, checkpoint)
    train(again, LoopSettings(log_every=1))
    assert [row["step"] for row in read_log(log) if "loss" in row] == [1, 2, 3, 4, 5, 6]


def test_a_fresh_run_begins_a_fresh_log(tmp_path):
    RunLog(tmp_path, {}, step=0).note({"step": 1, "loss": 2.0})
    assert RunLog(tmp_path, {}, step=0).rows == []


def test_a_long_log_is_drawn_with_few_points(tmp_path):
    log = RunLog(tmp_path, {}, step=0)
    log.rows = [{"step": i, "loss": 1.0 / (i + 1)} for i in range(5000)]
    (picture,) = log.draw()
    assert picture.read_text().count("L") < 400


def test_weights_and_biases_not_installed_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(WandbMissing, match=r"nanochat\[wandb\]"):
        RunLog(tmp_path, {}, step=0, wandb="offline")


@pytest.mark.slow
def test_weights_and_biases_offline_keeps_the_run_on_this_disk(base):  # noqa: F811
    run = a_run(loader(), steps=2)
    train(run, LoopSettings(wandb="offline", log_every=1))
    (kept,) = Path(run.folder).glob("wandb/offline-run-*/run-*.wandb")
    assert kept.stat().st_size > 0
