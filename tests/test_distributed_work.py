"""Every script that works in several processes does so on TinyWorld, and resumes to the bit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_distributed import torchrun
from tiny_build import make_small

from nanochat.checkpoint import list_checkpoints
from nanochat.run_log import read_log

PROGRAM = str(Path(__file__).parent / "every_script.py")
STEPS, MIDDLE = 4, 2
TRAINING = f"--tag two --steps {STEPS} --save-every {MIDDLE} --log-every 1 --keep 9 --threads 1"
TRAIN = [
    f"base-train {TRAINING} --depth 1 --aspect-ratio 32 --head-size 16 --rows 1 "
    "--context 256 --max-context 512 --batch-tokens 512 --eval-tokens 1024",
    f"chat-sft {TRAINING} --rows 1 --context 512 --accumulation 2",
    f"chat-rl {TRAINING} --questions 2 --samples 4 --max-tokens 6 --accumulation 2 --seeds 1 "
    "--kinds calculator two_hop --held-out 1 --bar-points 0 --curve-every 2 --json",
]
MEASURE = [
    "base-eval --max-per-task 3 --eval-tokens 4096 --threads 1 --json",
    "chat-eval --max-tokens 4 --threads 1 --json",
    "chat-eval --stage rl --max-tokens 4 --threads 1 --json",
]
STAGES = ("base", "sft", "rl")


def words(commands: list[str]) -> str:
    return json.dumps([command.split() for command in commands])


def together(base: Path, commands: list[str]) -> list[dict]:
    """Run the commands in two processes; returns what was printed as JSON."""
    both = torchrun(PROGRAM, str(base), words(commands), base=base)
    shown, errors = both.communicate(timeout=240)
    assert both.returncode == 0, errors
    return records(shown)


def records(shown: str) -> list[dict]:
    return [json.loads(line) for line in shown.splitlines() if line.startswith("{")]


def losses(base: Path, stage: str) -> list[float]:
    rows = read_log(base / "checkpoints" / stage / "two" / "log.jsonl")
    return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, list[dict]]:
    """Data, and all three stages trained and measured by two processes."""
    base = tmp_path_factory.mktemp("every")
    make_small(base, "tinyworld-make", "tok-train")
    return base, together(base, [*TRAIN, *MEASURE])


@pytest.mark.slow
def test_every_script_runs_in_two_processes_and_one_of_them_speaks(trained):
    base, shown = trained
    assert len(shown) == 4  # reinforcement and three measurements, each said once
    for stage in STAGES:
        assert [step.name for step in list_checkpoints(base / "checkpoints" / stage / "two")] == [
            f"step_{step:06d}" for step in (MIDDLE, STEPS)
        ]
        assert len(losses(base, stage)) == STEPS
    assert shown[0]["after"].keys() == shown[0]["before"].keys()


@pytest.mark.slow
def test_two_processes_train_and_measure_as_one_does(trained, tmp_path):
    base, shown = trained
    for name in ("data", "tokenizer"):
        shutil.copytree(base / name, tmp_path / name)
    one = words([*TRAIN[:2], *MEASURE[:2]])
    alone = subprocess.run(
        [sys.executable, PROGRAM, str(tmp_path), one], check=True, capture_output=True, text=True
    )
    for stage in STAGES[:2]:
        assert losses(base, stage) == pytest.approx(losses(tmp_path, stage), abs=1e-5)
    of_base, of_chat = records(alone.stdout)
    assert shown[1]["val_bpb"] == pytest.approx(of_base["val_bpb"], abs=1e-4)
    accuracy = {name: task["accuracy"] for name, task in of_base["tasks"].items()}
    assert {name: task["accuracy"] for name, task in shown[1]["tasks"].items()} == accuracy
    assert shown[2]["kinds"] == of_chat["kinds"] and shown[2]["questions"] == 14


@pytest.mark.slow
def test_every_stage_resumes_in_two_processes_bit_for_bit(trained):
    base, _ = trained
    whole = {}
    for stage in STAGES:
        last = base / "checkpoints" / stage / "two" / f"step_{STEPS:06d}"
        files = ("model.safetensors", "optimizer.safetensors")
        whole[stage] = [(last / name).read_bytes() for name in files], losses(base, stage)
        shutil.move(last, base / f"whole-{stage}")
    # each stage starts from the whole run of the one before it
    together(base, [f"{command} --resume" for command in TRAIN])
    for stage in STAGES:
        last = base / "checkpoints" / stage / "two" / f"step_{STEPS:06d}"
        weights, state = whole[stage][0]
        assert (last / "model.safetensors").read_bytes() == weights, stage
        assert (last / "optimizer.safetensors").read_bytes() == state, stage
        assert losses(base, stage) == whole[stage][1], stage
