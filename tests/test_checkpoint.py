"""Checkpoints: whole or not at all, whatever kills the writer, and nothing lost on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nanochat import checkpoint
from nanochat.checkpoint import (
    CheckpointCorrupt,
    CheckpointMissing,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from nanochat.paths import checkpoints_dir


def state(step: int) -> dict[str, torch.Tensor]:
    """Tensors that say which step they belong to."""
    return {"a": torch.full((64, 64), float(step)), "b": torch.full((7,), float(step))}


def saved(folder: Path, step: int, keep: int = 2) -> Path:
    return save_checkpoint(folder, step, state(step), state(-step), {"model": {}}, keep)


def test_what_was_saved_comes_back(tmp_path):
    found = load_checkpoint(saved(tmp_path, 7))
    assert found.meta["step"] == 7
    assert torch.equal(found.model["a"], state(7)["a"])
    assert torch.equal(found.optimizer["b"], state(-7)["b"])


def test_only_the_newest_are_kept_and_steps_sort_as_numbers(tmp_path):
    for step in (5, 999_999, 1_000_000, 20):
        saved(tmp_path, step, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step_999999", "step_1000000"]


def test_saving_a_step_again_replaces_it(tmp_path):
    saved(tmp_path, 3)
    save_checkpoint(tmp_path, 3, state(33), {}, {})
    assert torch.equal(load_checkpoint(tmp_path / "step_000003").model["a"], state(33)["a"])
    assert [p.name for p in tmp_path.iterdir()] == ["step_000003"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "meta.json"])
def test_one_flipped_bit_is_noticed_and_the_older_checkpoint_named(tmp_path, name):
    saved(tmp_path, 1)
    path = saved(tmp_path, 2)
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(CheckpointCorrupt, match=r"checksum; delete it to fall back on step_000001"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "meta.json"])
def test_a_missing_file_is_one_sentence(tmp_path, name):
    path = saved(tmp_path, 1)
    (path / name).unlink()
    with pytest.raises(CheckpointCorrupt, match="delete it"):
        load_checkpoint(path)


def test_no_checkpoint_names_the_command_that_makes_one(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    with pytest.raises(CheckpointMissing, match="nanochat chat-sft"):
        find_checkpoint("sft")


def test_the_newest_run_is_found_by_default_and_a_step_by_its_number(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    for age, tag in enumerate(("new", "old")):
        folder = checkpoints_dir("base", tag)
        for step in (1, 2):
            saved(folder, step)
        os.utime(folder, (1_000_000 - age, 1_000_000 - age))
    assert find_checkpoint("base").parent.name == "new"
    assert find_checkpoint("base", "old", 1).name == "step_000001"


def test_a_full_disk_loses_nothing_and_leaves_no_rubbish(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    write = checkpoint.write_durably

    def full(path: Path, data: bytes) -> None:
        if path.name == "optimizer.safetensors":
            raise OSError(28, "No space left on device", str(path))
        write(path, data)

    monkeypatch.setattr(checkpoint, "write_durably", full)
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step_000001"]
    assert load_checkpoint(tmp_path / "step_000001").meta["step"] == 1


@pytest.mark.parametrize("moment", ["after the old one moved aside", "before the rename"])
def test_a_writer_killed_between_two_renames_leaves_a_readable_checkpoint(tmp_path, moment):
    path = saved(tmp_path, 4)
    (tmp_path / ".writing-99-step_000004").mkdir()
    if moment.startswith("after"):
        path.rename(tmp_path / ".replaced-step_000004")
    (found,) = list_checkpoints(tmp_path)
    assert load_checkpoint(found).meta["step"] == 4  # a reader needs no repair
    saved(tmp_path, 5)  # and a writer repairs
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step_000004", "step_000005"]
    assert not list(tmp_path.glob(".*"))


WRITER = """
import sys
from pathlib import Path
import torch
from nanochat.checkpoint import save_checkpoint
folder, step = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
while True:
    step += 1
    tensors = {"a": torch.full((256, 256), float(step))}
    save_checkpoint(folder, step // 2, tensors, tensors, {"twice": step})  # every step twice
"""


@pytest.mark.slow
def test_kill_9_during_a_save_always_leaves_a_loadable_checkpoint(tmp_path):
    """50 kills at drawn moments; each save of the writer also replaces one of the same step."""
    draw = torch.Generator().manual_seed(0)
    step, kinds = 2, set()
    for _ in range(50):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(step)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        time.sleep(0.005 + 0.08 * torch.rand(1, generator=draw).item())
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        kinds |= {p.name.split("-")[0] for p in tmp_path.iterdir()}
        found = list_checkpoints(tmp_path)
        if not found:
            assert step == 2, "a checkpoint was there before this kill"
            continue
        for path in found:
            loaded = load_checkpoint(path)
            assert loaded.model["a"].eq(loaded.meta["twice"]).all()
            assert torch.equal(loaded.model["a"], loaded.optimizer["a"])
        newest = json.loads((found[-1] / "meta.json").read_text())["twice"]
        assert newest >= step - 1, "a finished save was lost"
        step = newest
    assert ".writing" in kinds, "no kill ever hit a save: the test proved nothing"
