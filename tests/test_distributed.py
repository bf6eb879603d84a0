"""Two processes train one model: the same losses as one, any number resumes, one dies and all end.

The trainings themselves are in two_processes.py, which torchrun starts.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from tiny_build import make_small

from nanochat.checkpoint import list_checkpoints, load_checkpoint
from nanochat.distributed import World
from nanochat.launch import Launch, launch, speaks_first

ROOT = Path(__file__).parent.parent
PROGRAM = str(ROOT / "tests" / "two_processes.py")


def torchrun(*words: str, processes: int = 2, base: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*command, "--nproc-per-node", str(processes), *words],
        cwd=ROOT,
        env={**os.environ, "NANOCHAT_BASE_DIR": str(base), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def alone(base: Path, *plan: str) -> None:
    subprocess.run([sys.executable, PROGRAM, str(base), *plan], cwd=ROOT, check=True)


# --- without processes ---


@pytest.mark.parametrize("count", [0, 1, 5, 8])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_parts_of_all_processes_are_everything_once(count, size):
    rows = list(range(count))
    parts = [rows[World(rank, size).part(count)] for rank in range(size)]
    assert [row for part in parts for row in part] == rows
    as_torch = [len(chunk) for chunk in torch.arange(count).chunk(size)] if count else []
    assert [len(part) for part in parts if part] == as_torch  # FSDP divides in the same way


def test_validation_is_divided_evenly_and_never_empty():
    assert [World(r, 2).mine([1, 2, 3, 4, 5]) for r in (0, 1)] == [[1, 3], [2, 4]]
    assert [World(r, 3).mine([1]) for r in (0, 1, 2)] == [[1], [1], [1]]


def test_a_world_of_one_sends_nothing():
    x = torch.ones(3, 2)
    world = World()
    assert world.sum_part(x).wait() is x and world.gather(x, 3).wait() is x
    assert world.sum([1.5]) == [1.5] and world.leader_first(lambda: 7) == 7


def test_a_process_started_by_hand_is_alone_and_may_always_speak(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "1")  # left over from something else
    assert launch() == Launch() and speaks_first() and speaks_first()


def test_of_several_processes_only_the_first_speaks(monkeypatch, tmp_path):
    for name, value in {
        "TORCHELASTIC_RUN_ID": "x",
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_PORT": str(os.getpid()),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert launch().size == 2 and launch().local_rank == 1
    assert speaks_first() and not speaks_first()


# --- with two ---


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_and_either_goes_on_from_the_other(tmp_path):
    alone(tmp_path, "plain")
    runs = tmp_path / "checkpoints" / "base"
    for tag in ("second", "second-fsdp"):
        shutil.copytree(runs / "plain", runs / tag)
        shutil.rmtree(runs / tag / "step_000020")
    (runs / "plain").rename(runs / "plain-alone")
    both = torchrun(PROGRAM, str(tmp_path), "plain", "fsdp", "second", "second-fsdp", base=tmp_path)
    _, errors = both.communicate(timeout=300)
    assert both.returncode == 0, errors

    def losses(name: str) -> list[float]:
        return json.loads((tmp_path / f"{name}.json").read_text())

    one = losses("plain-1")
    assert len(one) == 21 and one[19] < 0.8 * one[0]  # 20 losses, then bits per byte
    for name in ("plain-2", "second-2"):
        ours = losses(name)
        assert ours == pytest.approx(one[-len(ours) :], abs=1e-6), name
    for name in ("fsdp-2", "second-fsdp-2"):  # its weights lie elsewhere in memory, so products
        ours = losses(name)  # round otherwise: 1e-7 at first, and this lively model doubles that
        assert ours[0] == pytest.approx(one[-len(ours)], abs=1e-6), name
        assert ours == pytest.approx(one[-len(ours) :], abs=1e-3), name
    # what two processes saved at the middle goes on in one
    for tag, other in (("second", "plain"), ("second-fsdp", "fsdp")):
        shutil.rmtree(runs / tag)
        shutil.copytree(runs / other, runs / tag)
        shutil.rmtree(runs / tag / "step_000020")
    (tmp_path / "second-1.json").unlink(missing_ok=True)
    alone(tmp_path, "second")
    assert losses("second-1") == pytest.approx(one[-11:], abs=1e-6)
    saved = [load_checkpoint(runs / tag / "step_000010") for tag in ("plain-alone", "second-fsdp")]
    for name, tensor in saved[0].optimizer.items():
        torch.testing.assert_close(saved[1].optimizer[name], tensor, rtol=1e-2, atol=1e-3)


SMALL = "--depth 1 --aspect-ratio 32 --head-size 16 --rows 1 --context 64 --batch-tokens 128 "
SMALL += "--eval-tokens 128 --threads 1 --tag two"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("two")
    make_small(base, "tinyworld-make", "tok-train")
    return base


def base_train(data: Path, more: str) -> subprocess.Popen:
    return torchrun("-m", "scripts", "base-train", *f"{SMALL} {more}".split(), base=data)


def sentences(errors: str) -> list[str]:
    return re.findall(r"^nanochat: .*$", errors, re.M)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_with_one_sentence_and_a_checkpoint(data):
    run = base_train(data, "--steps 100000 --save-every 2 --keep 3")
    folder = data / "checkpoints" / "base" / "two"
    deadline = time.monotonic() + 240
    while not list_checkpoints(folder) and time.monotonic() < deadline:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.1)
    workers = [p for p in psutil.Process(run.pid).children() if p.environ().get("RANK") == "1"]
    workers[0].send_signal(signal.SIGKILL)
    _, errors = run.communicate(timeout=240)
    assert run.returncode != 0
    (said,) = sentences(errors)
    found = list_checkpoints(folder)
    assert "a process of this run ended" in said and found[-1].name in said and "--resume" in said
    assert load_checkpoint(found[-1]).meta["step"] >= 2
    step = int(found[-1].name.rpartition("_")[2])
    again = base_train(data, f"--steps {step + 2} --resume --json")
    shown, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert json.loads(shown.splitlines()[-1])["tokens"] == (step + 2) * 128  # one line, one voice


@pytest.mark.slow
def test_what_does_not_divide_is_said_once_before_anything_is_made(data):
    run = base_train(data, "--batch-tokens 192 --overwrite --steps 2")
    _, errors = run.communicate(timeout=240)
    (said,) = sentences(errors)
    assert "3 passes" in said and "2 processes" in said and "--rows" in said


@pytest.mark.slow
def test_ctrl_c_saves_and_stops_all_processes_at_the_same_step(data):
    run = base_train(data, "--steps 100000 --save-every 2 --keep 3 --overwrite")
    folder = data / "checkpoints" / "base" / "two"
    before = {path.name for path in list_checkpoints(folder)}
    deadline = time.monotonic() + 240
    while {p.name for p in list_checkpoints(folder)} <= before and time.monotonic() < deadline:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=240)
    assert run.returncode != 0
    (said,) = sentences(errors)
    assert "stopped by Ctrl-C" in said and "a process of this run ended" not in errors
    saved = load_checkpoint(list_checkpoints(folder)[-1]).meta
    assert (
        saved["loop"]["step"] == saved["step"] and saved["batches"]["batches"] == 2 * saved["step"]
    )
