"""The scripts under runs/ in dry run: every command exists and takes its flags, none is run."""

import importlib
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from nanochat import cli
from nanochat.paths import ROOT
from scripts import bench

RUNS = sorted((ROOT / "runs").glob("*.sh"))
OTHER_WAYS = {
    "speedrun.sh": {"NODES": "2", "NODE": "1", "HOST": "10.0.0.1"},
    "scaling.sh": {"GPUS": "8", "DATA": "climbmix", "DEPTHS": "12 16"},
    "laptop.sh": {"STEPS": "20"},
}


class Parsed(Exception):
    """The flags were fine; nothing more is to happen."""


def commands(script: Path, **environment: str) -> list[list[str]]:
    """What the script would run."""
    done = subprocess.run(
        ["bash", str(script)],
        env={"PATH": os.environ["PATH"], "DRY_RUN": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("+ ")]
    assert len(lines) >= 3, "a dry run prints every command"
    assert len(lines) == len(done.stdout.splitlines()), "a dry run runs nothing"
    return [shlex.split(line[2:]) for line in lines]


def check_flags(verb: str, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the verb's own script read the flags, and stop it there."""
    path = ROOT / "scripts" / f"{verb.replace('-', '_')}.py"
    assert path.is_file(), f"no verb {verb}"
    module = importlib.import_module(f"scripts.{path.stem}")

    def parse_only(*arguments):
        raise Parsed(cli.parse(*arguments))

    monkeypatch.setattr(module, "parse", parse_only)
    with pytest.raises(Parsed):
        module.main(flags)


@pytest.mark.parametrize("other", [False, True], ids=["plain", "other settings"])
@pytest.mark.parametrize("script", RUNS, ids=lambda path: path.name)
def test_every_command_of_a_run_exists_and_takes_its_flags(script, other, monkeypatch):
    for words in commands(script, **(OTHER_WAYS[script.name] if other else {})):
        if words[0] == "torchrun":
            at = words.index("-m")
            assert words[at + 1] == "scripts" and "--nproc-per-node" in words[:at]
            check_flags(words[at + 2], words[at + 3 :], monkeypatch)
        elif words[0] == "nanochat":
            check_flags(words[1], words[2:], monkeypatch)
        else:
            assert words[0] == "cp", f"{script.name}: {words}"


def test_a_wrong_flag_would_be_seen(monkeypatch):
    with pytest.raises(SystemExit):
        check_flags("base-train", ["--dept", "4"], monkeypatch)
    with pytest.raises(AssertionError, match="no verb"):
        check_flags("base-trian", [], monkeypatch)


def test_the_three_runs_are_there_and_can_be_started():
    assert {path.name for path in RUNS} == OTHER_WAYS.keys()
    assert all(os.access(path, os.X_OK) for path in RUNS)
    assert set(bench.BENCHES) >= {"train", "speculative"}
