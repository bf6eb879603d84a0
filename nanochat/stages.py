"""Run the build's stages in order, each as its own process, and skip what is already made.

Called by scripts/build.py, which holds the table. Read: Stage -> code_behind -> fingerprint ->
is_done -> build -> run_stage -> run_child.

A stage is done when its outputs exist and its fingerprint is the one they were made with: its
command, the code behind it (comments and docstrings left out, so that editing those costs nothing)
and the fingerprints of the stages it needs. What was made, and in how many seconds, stands in
report/stages.json. One lock file keeps two builds apart; a stage inherits it, so that a stage
which outlives a killed build still holds it. Imports no torch: a build with nothing to do is quick.
"""

import ast
import ctypes
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from nanochat.atomic import write_atomically
from nanochat.errors import UserError
from nanochat.paths import ROOT, base_dir, report_dir

Log = Callable[[str], None]
Ledger = dict[str, dict[str, Any]]  # stage -> {"state", "seconds", "fingerprint"}

# Modules that carry results but don't change them: editing one of these retrains nothing.
PLUMBING = {
    *("atomic", "cli", "compression", "errors", "paths", "progress"),
    *("picture", "report", "report_card", "stages"),
    "catalogue",  # opens tasks by name; the recipe's TinyWorld comes as a file
}
LOCK_WAIT_S = 30  # a stage cut off a moment ago may still be saving
PR_SET_PDEATHSIG = 1  # Linux: the signal a process gets when its parent dies


class StageFailed(UserError):
    """A stage ended with an error; everything before it is kept."""


class BuildAtWork(UserError):
    """Another build, or a stage it left running, holds the lock of this folder."""


@dataclass(frozen=True)
class Stage:
    """One row of the build's table."""

    name: str  # the verb, as in `nanochat base-train`
    about: str  # what it does, for a reader without machine learning
    command: tuple[str, ...]  # for Python: ("-m", "scripts", "base-train", "--depth", "4")
    outputs: tuple[str, ...]  # glob patterns under the base folder; all must match something
    needs: tuple[str, ...] = ()  # the stages whose outputs it reads
    fresh: tuple[str, ...] = ()  # added to the command when it starts from nothing
    resume: tuple[str, ...] = ()  # added instead when an earlier try was cut off
    files: tuple[str, ...] = ()  # glob patterns under the checkout: data files it depends on


def code_behind(module: str, root: Path = ROOT) -> list[Path]:
    """The file of `scripts.X` and every nanochat file it imports, directly or through others."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = root / (name.replace(".", "/") + ".py")
        if name in found or not path.is_file() or path.stem in PLUMBING:
            continue
        found[name] = path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
    return [found[name] for name in sorted(found)]


def meaning_of(path: Path) -> str:
    """A file without what cannot change a result: for Python, comments, layout and docstrings."""
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not is_text(line)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def is_text(statement: ast.stmt) -> bool:
    """A bare string: a docstring, or a setting's help."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def fingerprint(stage: Stage, before: dict[str, str], root: Path = ROOT) -> str:
    """One word for everything a stage's outputs depend on; `before` has those of earlier stages."""
    digest = hashlib.sha256(json.dumps(stage.command).encode())
    if stage.command[:2] == ("-m", "scripts"):
        sources = code_behind(f"scripts.{stage.command[2].replace('-', '_')}", root)
        sources += [path for pattern in stage.files for path in sorted(root.glob(pattern))]
        for path in sources:
            digest.update(f"{path.relative_to(root)}\n{meaning_of(path)}".encode())
    for name in stage.needs:
        digest.update(before[name].encode())
    return digest.hexdigest()[:16]


def ledger_file() -> Path:
    return report_dir() / "stages.json"


def read_ledger() -> Ledger:
    """What earlier builds did; empty when there was none or its file cannot be read."""
    try:
        ledger = json.loads(ledger_file().read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}  # the worst that follows is a stage made again
    return ledger if isinstance(ledger, dict) else {}


def write_entry(name: str, state: str, seconds: float, mark: str = "") -> None:
    ledger = read_ledger()
    ledger[name] = {"state": state, "seconds": round(seconds, 1), "fingerprint": mark}
    write_atomically(ledger_file(), json.dumps(ledger, indent=1) + "\n")


def outputs_exist(stage: Stage) -> bool:
    return all(any(base_dir().glob(pattern)) for pattern in stage.outputs)


def is_done(stage: Stage, mark: str, entry: dict[str, Any], keep: bool) -> bool:
    """True when there is nothing to do. `keep` accepts outputs made by other code or settings."""
    cut_off = bool(entry) and entry.get("state") != "done"
    if cut_off or not outputs_exist(stage):
        return False
    return keep or (bool(entry) and entry.get("fingerprint") == mark)


def plan(table: Sequence[Stage], keep: bool = False) -> list[tuple[Stage, bool]]:
    """(stage, whether it would run), in order."""
    marks = dict[str, str]()
    ledger, rows = read_ledger(), list[tuple[Stage, bool]]()
    for stage in table:
        marks[stage.name] = fingerprint(stage, marks)
        rows.append(
            (stage, not is_done(stage, marks[stage.name], ledger.get(stage.name, {}), keep))
        )
    return rows


def build(table: Sequence[Stage], log: Log, keep: bool = False) -> float:
    """Make what is missing or out of date; returns the seconds spent. Safe to cut off anywhere."""
    start, marks = time.monotonic(), dict[str, str]()
    with only_build(log) as lock:
        for number, stage in enumerate(table, 1):
            label = f"[{number}/{len(table)}] {stage.name}"
            marks[stage.name] = mark = fingerprint(stage, marks)
            entry = read_ledger().get(stage.name, {})
            if is_done(stage, mark, entry, keep):
                log(f"{label}: already made")
                continue
            log(f"{label}: {stage.about}")
            seconds = run_stage(stage, mark, entry, lock)
            log(f"{label}: done in {duration(seconds)}")
    return time.monotonic() - start


def run_stage(stage: Stage, mark: str, entry: dict[str, Any], lock: int) -> float:
    """Run one stage to its end; returns its seconds, those of cut-off tries included."""
    cut_off = entry.get("state") == "started" and entry.get("fingerprint") == mark
    earlier = float(entry.get("seconds", 0)) if cut_off else 0.0
    arguments = (*stage.command, *(stage.resume if cut_off else stage.fresh))
    write_entry(stage.name, "started", earlier, mark)
    start = time.monotonic()
    code = None
    try:
        code = run_child(arguments, lock)
    finally:
        seconds = earlier + time.monotonic() - start
        if code != 0:
            write_entry(stage.name, "started", seconds, mark)
    if code != 0:
        raise StageFailed(
            f"stage {stage.name} failed ({ending(code)}): see its message above, then run "
            "`make build` again; the stages before it are kept"
        )
    if not outputs_exist(stage):
        raise StageFailed(
            f"stage {stage.name} ended well but left no {' and '.join(stage.outputs)} in "
            f"{base_dir()}; run `nanochat {stage.name}` by itself to see why"
        )
    write_entry(stage.name, "done", seconds, mark)
    return seconds


def ending(code: int) -> str:
    """Exit status in words: a negative one is the signal that ended the process."""
    return f"exit {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"


def run_child(arguments: Sequence[str], lock: int) -> int:
    """Run Python with `arguments`; a Ctrl-C or a SIGTERM goes on to it, and it may save first.

    The child has its own process group, so that one Ctrl-C reaches it once: from us.
    """
    libc = ctypes.CDLL(None)  # found before the fork: the child should do as little as it can

    def end_with_parent() -> None:  # SIGTERM when the build dies, even by kill -9
        if sys.platform == "linux":
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    child = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        pass_fds=(lock,),
        process_group=0,
        preexec_fn=end_with_parent,
    )

    def pass_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)
        received.append(number)

    received: list[int] = []
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt
    return code


@contextmanager
def only_build(log: Log) -> Iterator[int]:
    """Hold the lock of the base folder; waits a little for a stage that is still saving."""
    base_dir().mkdir(parents=True, exist_ok=True)
    path = base_dir() / "build.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        wait_for_lock(lock, log)
        yield lock
    finally:
        os.close(lock)


def wait_for_lock(lock: int, log: Log) -> None:
    """Wait a moment for the build's lock. Raises BuildAtWork."""
    deadline = time.monotonic() + LOCK_WAIT_S
    told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BuildAtWork(
                    f"another build is at work in {base_dir()}; let it end, or press Ctrl-C in its "
                    "terminal, then run this again"
                ) from None
        if not told:
            log("another build is at work here; waiting for it to save and end")
            told = True
        time.sleep(0.1)


def duration(seconds: float) -> str:
    """5.21 -> '5.2 s'; 312.4 -> '5 min 12 s'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
