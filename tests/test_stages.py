"""The build runs what is missing, skips what is made, and loses nothing when it is cut off."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanochat import stages
from nanochat.report import stage_seconds
from nanochat.stages import Stage, StageFailed, build, plan, read_ledger

ROOT = Path(__file__).parent.parent
APPEND = "import sys; open(sys.argv[1], 'a').write(sys.argv[2])"


@pytest.fixture
def base(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


def writer(base: Path, name: str, needs: tuple[str, ...] = (), word: str = "x") -> Stage:
    """A stage that appends `word` to the file of its name."""
    return Stage(
        name, f"writing {name}", ("-c", APPEND, str(base / name), word), (name,), needs=needs
    )


def names_run(table: list[Stage], keep: bool = False) -> list[str]:
    """Run the table; which stages did something?"""
    lines: list[str] = []
    build(table, lines.append, keep)
    return [line.split()[1].rstrip(":") for line in lines if ": done in" in line]


def test_a_second_build_runs_nothing(base):
    table = [writer(base, "data"), writer(base, "model", ("data",))]
    assert names_run(table) == ["data", "model"]
    assert names_run(table) == []
    assert (base / "model").read_text() == "x"


def test_a_missing_output_is_made_again_and_nothing_else(base):
    table = [writer(base, "data"), writer(base, "model")]
    names_run(table)
    (base / "data").unlink()
    assert names_run(table) == ["data"]


def test_changed_settings_remake_the_stage_and_what_needs_it(base):
    table = [writer(base, "data"), writer(base, "model", ("data",)), writer(base, "aside")]
    names_run(table)
    table[0] = writer(base, "data", word="y")
    assert names_run(table) == ["data", "model"]


def test_keep_uses_what_other_settings_made(base):
    names_run([writer(base, "data")])
    assert names_run([writer(base, "data", word="y")], keep=True) == []


def test_plan_says_what_would_run_and_runs_nothing(base):
    table = [writer(base, "data"), writer(base, "model", ("data",))]
    names_run(table[:1])
    assert [(stage.name, todo) for stage, todo in plan(table)] == [("data", False), ("model", True)]
    assert not (base / "model").exists()


def test_a_failing_stage_stops_the_build_in_one_sentence_and_keeps_the_rest(base):
    broken = Stage("model", "failing", ("-c", "raise SystemExit(3)"), ("model",), ("data",))
    table = [writer(base, "data"), broken, writer(base, "exam", ("model",))]
    with pytest.raises(StageFailed, match=r"stage model failed \(exit 3\).*make build"):
        build(table, print)
    assert (base / "data").read_text() == "x" and not (base / "exam").exists()
    table[1] = writer(base, "model", ("data",))
    assert names_run(table) == ["model", "exam"]


def test_a_stage_killed_by_a_signal_is_named(base):
    dies = Stage("model", "dying", ("-c", "import os; os.kill(os.getpid(), 9)"), ("model",))
    with pytest.raises(StageFailed, match="ended by SIGKILL"):
        build([dies], print)


def test_a_stage_that_leaves_no_output_is_not_called_done(base):
    idle = Stage("model", "nothing", ("-c", "pass"), ("model-*",))
    with pytest.raises(StageFailed, match=r"left no model-\* in"):
        build([idle], print)
    assert read_ledger()["model"]["state"] == "started"


def test_a_cut_off_stage_gets_its_resume_flags_and_a_new_one_its_fresh_flags(base):
    path = str(base / "flags")
    tells_and_fails = f"import sys; open({path!r}, 'w').write(sys.argv[1]); sys.exit(1)"
    stage = Stage(
        "model", "m", ("-c", tells_and_fails), ("model",), fresh=("--overwrite",), resume=("--on",)
    )
    for flag in ("--overwrite", "--on"):  # the first try fails, the second goes on from it
        with pytest.raises(StageFailed):
            build([stage], print)
        assert (base / "flags").read_text() == flag


def test_the_seconds_of_each_finished_stage_are_in_the_report(base):
    build([writer(base, "data")], print)
    stages.write_entry("install", "done", 31.25)
    stages.write_entry("model", "started", 5.0)
    seconds = stage_seconds()
    assert list(seconds) == ["data", "install"] and seconds["install"] == 31.2


def test_a_broken_ledger_only_costs_work(base):
    table = [writer(base, "data")]
    build(table, print)
    stages.ledger_file().write_text("{half", encoding="utf-8")
    assert names_run(table) == ["data"]


def test_code_behind_a_script_follows_its_imports_and_leaves_plumbing_out():
    names = {path.stem for path in stages.code_behind("scripts.tinyworld_make")}
    assert {"tinyworld_make", "tinyworld"} <= names
    assert not names & stages.PLUMBING


def test_only_code_that_can_change_a_result_changes_a_fingerprint(tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "nanochat").mkdir()
    script, module = tmp_path / "scripts" / "make.py", tmp_path / "nanochat" / "words.py"
    catalogue = tmp_path / "nanochat" / "words.json"
    stage = Stage("make", "", ("-m", "scripts", "make"), (), files=("nanochat/words*.json",))

    def mark(constant: str, comment: str, listed: str = "{}") -> str:
        script.write_text('"""A map."""\nfrom nanochat import words\n')
        module.write_text(f'"""{comment}"""\n# {comment}\nSIZE = {constant}\n"""{comment}"""\n')
        catalogue.write_text(listed)
        return stages.fingerprint(stage, {}, tmp_path)

    assert mark("1", "one") == mark("1", "another")
    assert mark("1", "one") != mark("2", "one")
    assert mark("1", "one") != mark("1", "one", "[]")


# A build in its own process, so that it can be cut off.
BUILD_TWO = """
import sys
from nanochat.cli import run
from nanochat.stages import Stage, build
slow = '''
import signal, sys, time, pathlib
base = pathlib.Path(sys.argv[1])
def save(number, frame):
    (base / "saved").write_text(str(number))
    sys.exit(130)
signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
if "--resume" in sys.argv and (base / "saved").exists():
    (base / "model").write_text("whole")
else:
    (base / "running").touch()
    time.sleep(60)
'''
base = sys.argv[1]
table = [
    Stage("data", "d", ("-c", "import sys; open(sys.argv[1] + '/data', 'a').write('x')", base),
          ("data",)),
    Stage("model", "m", ("-c", slow, base), ("model",), ("data",), resume=("--resume",)),
]
def main():
    build(table, lambda line: print(line, flush=True))
run(main)
"""


def start_build(base: Path) -> subprocess.Popen:
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(base)}
    return subprocess.Popen(
        [sys.executable, "-c", BUILD_TWO, str(base)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_exists(path: Path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["ctrl-c", "term", "kill-9"]
)
def test_a_build_cut_off_lets_its_stage_save_and_the_next_build_goes_on(base, number):
    cut = start_build(base)
    wait_until_exists(base / "running")
    cut.send_signal(number)
    _, errors = cut.communicate()
    if number != signal.SIGKILL:
        assert cut.returncode == 130 and errors.count("\n") == 1, errors
    wait_until_exists(base / "saved")  # after kill -9 too: the stage is told that its parent died
    again = start_build(base)
    out, errors = again.communicate()
    assert again.returncode == 0, errors
    assert "data: already made" in out and (base / "data").read_text() == "x"
    assert (base / "model").read_text() == "whole"


def test_two_builds_in_one_folder_do_not_run_at_once(base, monkeypatch):
    monkeypatch.setattr(stages, "LOCK_WAIT_S", 0.2)
    first = start_build(base)
    wait_until_exists(base / "running")
    try:
        with pytest.raises(stages.BuildAtWork, match="another build is at work"):
            build([writer(base, "data")], print)
    finally:
        first.send_signal(signal.SIGINT)
        first.communicate()


def test_the_builds_own_code_imports_no_torch():
    """A second `make up` is quick because looking at what is made needs no torch."""
    listing = "import sys, scripts.build; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", listing], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_durations_read_as_people_say_them():
    assert [stages.duration(s) for s in (5.21, 59.96, 312.4)] == ["5.2 s", "60.0 s", "5 min 12 s"]
