"""A build that is cut off again and again ends with everything made, and nothing made twice."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.report import read_report, summary
from nanochat.stages import plan, read_ledger
from tests.tiny_build import small_table

ROOT = Path(__file__).parent.parent
CUTS = 8
PROGRAM = """
from nanochat.cli import run
from nanochat.stages import build
from tests.tiny_build import small_table
def main():
    build(small_table(), lambda line: print(line, flush=True))
run(main)
"""


@pytest.mark.slow
def test_a_real_build_survives_ctrl_c_and_kill_9_at_any_moment(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    rng = random.Random(7)
    outcomes = []
    for _ in range(CUTS):
        build = start()
        try:
            outcomes.append(build.wait(rng.uniform(0.2, 6.0)))
        except subprocess.TimeoutExpired:
            build.send_signal(rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL]))
            outcomes.append(build.wait())
    made = {name for name, entry in read_ledger().items() if entry["state"] == "done"}
    last = start()
    shown, errors = last.communicate()
    assert last.returncode == 0, f"after {outcomes}: {errors}"
    for name in made:
        assert f"{name}: already made" in shown, f"{name} was made twice"
    assert all(not to_do for _, to_do in plan(small_table()))
    assert summary(read_report())["stages_s"].keys() == {stage.name for stage in small_table()}


def start() -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
