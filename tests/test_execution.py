"""The sandbox: what a run returns, what it survives, when it refuses, and 21 attacks on both tiers.

The filter's decisions are compared with an interpreter of the kernel's filter language, below.
"""

import os
import platform
import signal
import struct
import subprocess
import sys
import threading

import psutil
import pytest

from nanochat import execution, execution_seccomp
from nanochat.execution import (
    PNG,
    BadLimits,
    Limits,
    SandboxUnavailable,
    ending,
    pick_tier,
    printable,
    read_results,
    run,
    whole_characters,
    why_not,
)
from nanochat.execution_attacks import end_all, load_attacks, scene, try_attack
from nanochat.execution_boxes import TIERS, start_box
from nanochat.execution_seccomp import ALLOW, KILL_PROCESS, MACHINES, NOT_THERE, REFUSE, program

COLUMN = {"x86_64": 0, "aarch64": 1}


def decide(code: bytes, name: int, number: int, *arguments: int) -> int:
    """What the kernel would answer: the filter run one instruction at a time."""
    values = (list(arguments) + [0] * 6)[:6]
    seen = struct.pack("IIQ6Q", number, name, 0, *values)
    at, accumulator = 0, 0
    while True:
        kind, if_true, if_false, k = struct.unpack_from("HBBI", code, at * 8)
        at += 1
        if kind == 0x06:
            return k
        if kind == 0x20:
            accumulator = struct.unpack_from("I", seen, k)[0]
            continue
        true = {0x15: accumulator == k, 0x45: bool(accumulator & k), 0x35: accumulator >= k}[kind]
        at += if_true if true else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_refuses_every_closed_call_and_allows_the_others(machine):
    column, name = MACHINES[machine]
    code = program(machine)
    closed = {n[column] for n in execution_seccomp.NUMBERS.values()} - {None}
    special = {execution_seccomp.CLONE[column], execution_seccomp.CLONE3[column]}
    for number in range(500):
        if number in special:
            continue
        expected = REFUSE if number in closed else ALLOW
        assert decide(code, name, number) == expected, number


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_looks_at_arguments(machine):
    column, name = MACHINES[machine]
    code, alone = program(machine), program(machine, alone_pid=77)
    clone, ioctl = execution_seccomp.CLONE[column], execution_seccomp.IOCTL[column]
    kill, limits = execution_seccomp.KILL[column], execution_seccomp.PRLIMIT[column]
    thread, fork, userns = 0x3D0F00, 17, 0x10000000 | 17
    assert decide(code, name, clone, thread) == decide(code, name, clone, fork) == ALLOW
    assert decide(code, name, clone, userns) == REFUSE
    assert decide(alone, name, clone, thread) == ALLOW
    assert decide(alone, name, clone, fork) == decide(alone, name, clone, userns) == REFUSE
    assert decide(code, name, ioctl, 0, 0x5412) == REFUSE
    assert decide(code, name, ioctl, 0, 0x5413) == ALLOW
    assert decide(alone, name, kill, 77) == ALLOW and decide(alone, name, kill, 78) == REFUSE
    assert decide(alone, name, limits, 0) == ALLOW and decide(alone, name, limits, 1) == REFUSE
    assert decide(code, name, execution_seccomp.CLONE3[column]) == NOT_THERE


def test_the_filter_knows_its_processor_and_its_numbering():
    assert decide(program("x86_64"), 0x40000003, 39) == KILL_PROCESS  # 32-bit calls
    assert decide(program("x86_64"), MACHINES["x86_64"][1], 0x40000000 | 41) == NOT_THERE


def test_machines_without_linux_or_bubblewrap_or_landlock_get_a_reason(monkeypatch):
    monkeypatch.setattr(execution.sys, "platform", "darwin")
    why_not.cache_clear()
    try:
        with pytest.raises(SandboxUnavailable, match=r"not run \(bubblewrap: .*; landlock: .*\)"):
            pick_tier()
        with pytest.raises(SandboxUnavailable):
            run("print(1)")
    finally:
        why_not.cache_clear()


def test_a_missing_bubblewrap_is_named_with_its_package(monkeypatch):
    monkeypatch.setattr(execution.shutil, "which", lambda name: None)
    why_not.cache_clear()
    try:
        assert "apt-get install bubblewrap" in why_not("bubblewrap")
    finally:
        why_not.cache_clear()


def test_control_characters_are_shown_not_sent():
    assert printable("é\x1b[31m\tx\r\n\x00".encode()) == "é␛[31m\tx\n␀"


def test_half_a_character_waits_for_its_other_half():
    whole = "aé€😀".encode()
    ends = [whole_characters(whole[:n]) for n in range(1, len(whole) + 1)]
    assert ends == [1, 1, 3, 3, 3, 6, 6, 6, 6, 10]


def test_results_of_the_wrong_shape_are_dropped():
    lines = [b"not json", b"[1]", b'{"call": "x"}', b'{"picture": "AAAA"}', b'{"picture": 7}']
    lines += [b'{"call": 1, "value": 2}', b'{"call": 2, "error": "no\\u001b"}', b"[" * 100_000]
    assert read_results(b"\n".join(lines)) == ({1: 2}, {2: "no␛"}, [])


def test_endings_have_words():
    assert [ending(code) for code in (0, 1, 137, -9, 152, 159)] == [
        *("finished", "failed", "killed", "killed", "timed out", "killed")
    ]


def test_a_limit_that_cannot_work_is_refused():
    with pytest.raises(BadLimits):
        run("print(1)", Limits(wall_s=0))


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS)
def test_a_run_returns_what_the_code_did(tier):
    said = []
    code = "import sys, numpy\nprint(6 * 7)\nprint('no', file=sys.stderr)\ndef f(x): return x / 2"
    calls = ["f(3)", "numpy.arange(3)", "f('a')", "float('nan')", "object()"]
    outcome = run(code, calls=calls, tier=tier, on_output=lambda *piece: said.append(piece))
    assert (outcome.ended, outcome.exit_code, outcome.tier) == ("finished", 0, tier)
    assert (outcome.stdout, outcome.stderr) == ("42\n", "no\n")
    assert outcome.values == {0: 1.5, 1: [0, 1, 2], 3: "nan"}
    assert outcome.errors[2].startswith("TypeError") and "compared" in outcome.errors[4]
    heard = {kind: "".join(text for k, text in said if k == kind) for kind, _ in said}
    assert heard == {"stdout": "42\n", "stderr": "no\n"}  # in as many pieces as the pipe gave
    assert 1_000_000 < outcome.memory_bytes < 1 << 30


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS)
def test_a_mistake_shows_the_learners_lines_and_none_of_ours(tier):
    outcome = run("def f():\n    return 1 / 0\n\nf()", tier=tier)
    assert (outcome.ended, outcome.exit_code) == ("failed", 1)
    assert 'File "your_code.py", line 2, in f' in outcome.stderr
    assert "ZeroDivisionError" in outcome.stderr and "runner" not in outcome.stderr
    assert run("raise SystemExit(3)", tier=tier).exit_code == 3
    assert "SyntaxError" in run("x = (", tier=tier).stderr


@pytest.mark.slow
def test_a_picture_that_the_code_wrote_comes_back():
    picture = PNG + b"rest"
    outcome = run(f"open('a.png', 'wb').write({picture!r}); open('b.png', 'w').write('no')")
    assert outcome.pictures == [picture]


@pytest.mark.slow
def test_a_run_can_be_cancelled_and_a_box_kept_ready():
    box, cancel = start_box(pick_tier()), threading.Event()
    code = "print('here', flush=True)\nwhile True: pass"
    outcome = run(code, box=box, cancel=cancel, on_output=lambda *_: cancel.set())
    assert outcome.ended == "cancelled" and outcome.stdout.startswith("here")
    assert box.process.poll() is not None


@pytest.mark.slow
def test_processes_together_stay_below_the_memory_limit():
    code = (
        "import os, time\nfor _ in range(6): os.fork() or (b := bytearray(60 << 20))\ntime.sleep(9)"
    )
    assert run(code, Limits(memory_bytes=200 << 20), tier="bubblewrap").ended == "killed"


DAEMON = """import ctypes, os, time
if os.fork():
    time.sleep(0.05)
    {end}
ctypes.CDLL(None).prctl(15, NAME, 0, 0, 0)
os.setsid()
os.closerange(0, 64)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["raise SystemExit", "time.sleep(60)"])
def test_when_run_returns_nothing_that_it_started_is_left(end):
    """Ten times, as what is left would be gone some milliseconds later."""
    for turn in range(10):
        name = f"left-{os.getpid()}-{turn}"
        code = f"NAME = {name.encode()!r}\n{DAEMON.format(end=end)}"
        run(code, Limits(wall_s=0.6), tier="bubblewrap")
        assert name not in {process.info["name"] for process in psutil.process_iter(["name"])}


def test_who_has_ended_before_it_is_killed_disturbs_nobody():
    ended, living = (subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
                     for _ in range(2))  # fmt: skip
    seen = [psutil.Process(ended.pid), psutil.Process(living.pid)]
    ended.communicate()
    end_all(seen)
    assert living.wait(30) == -signal.SIGKILL
    living.communicate()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("tier", TIERS)
def test_every_attack_is_contained_and_succeeds_without_the_box(tier):
    assert platform.machine() in COLUMN and why_not(tier) == ""
    attacks = load_attacks()
    assert [attack.number for attack in attacks] == list(range(1, 22))
    with scene() as bait:
        findings = [try_attack(attack, bait, tier) for attack in attacks]
    assert [f.title for f in findings if not f.contained] == []
    assert [f.title for f in findings if not f.control] == []


@pytest.mark.slow
def test_a_program_may_start_others_signal_itself_and_wait_for_its_children():
    """Its box has a process number 1 of ours, so nothing of this is special for the learner."""

    def ended(code: str, **limits: int) -> tuple[str, int | None, str]:
        outcome = run(code, Limits(**limits), tier="bubblewrap")
        return outcome.ended, outcome.exit_code, outcome.stdout

    others = (
        "import subprocess as s\nfor c in ('exit 7', 'kill -9 $$'): print(s.run(['sh', '-c', c]))"
    )
    assert "returncode=7)" in ended(others)[2] and "returncode=-9)" in ended(others)[2]
    child = "import multiprocessing as m, sys\np = m.get_context('fork').Process(target=sys.exit, "
    assert ended(child + "args=(3,))\np.start(); p.join(); print(p.exitcode)") == (
        "finished",
        0,
        "3\n",
    )
    kill = "import os, signal\nos.kill(os.getpid(), signal.{})\nprint('still here')"
    for name in ("SIGKILL", "SIGTERM", "SIGSEGV"):
        assert ended(kill.format(name)) == ("killed", None, "")
    ring = "import signal, time\nsignal.signal(signal.SIGALRM, lambda *_: print('ding'))\n"
    assert ended(ring + "signal.setitimer(signal.ITIMER_REAL, 0.1)\ntime.sleep(0.3)")[2] == "ding\n"
    assert ended("while True: pass", cpu_s=1, wall_s=30) == ("timed out", None, "")


@pytest.mark.slow
def test_the_limit_of_processor_time_ends_a_program_of_the_second_tier_too():
    outcome = run("while True: pass", Limits(cpu_s=1, wall_s=30), tier="landlock")
    assert (outcome.ended, outcome.exit_code) == ("timed out", None)
