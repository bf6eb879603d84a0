"""Run code that nobody vouches for, on this machine, without risk to it; or refuse.

    outcome = run("print(6 * 7)", Limits(wall_s=2))     # outcome.stdout == "42\\n"

Called by serve/bridge_app.py (/run), by tasks that grade programs, and by `nanochat sandbox`.
Read: Limits -> Outcome -> run -> pick_tier -> Watch (what the parent sees) -> execution_boxes.py
(how a box is built) -> execution_runner.py (what runs inside) -> execution_seccomp.py.

Two tiers. "bubblewrap": a real unprivileged user, own namespaces, nothing of ours but Python
read-only, closed system calls, limits. "landlock": where those namespaces are missing; one process
that can write no file and reach no network. With neither, SandboxUnavailable says why.
Not covered: bugs of the kernel, time and heat spent within the limits.
"""

import functools
import json
import os
import platform
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nanochat.errors import UserError
from nanochat.execution_boxes import TIERS, Box, Tier, start_box
from nanochat.execution_seccomp import MACHINES

Ended = Literal["finished", "failed", "timed out", "cancelled", "too much output", "killed"]
OnOutput = Callable[[str, str], None]  # ("stdout" or "stderr", new text)

TICK_S = 0.05  # how often the memory is looked at, and how late a cancel may be noticed
RESULT_BYTES = 8_000_000  # pictures and values together
PNG = b"\x89PNG\r\n\x1a\n"
SHOWN = {i: 0x2400 + i for i in range(32) if chr(i) not in "\n\t"} | {127: 0x2421}


# @learn:inference.sandboxing
@dataclass(frozen=True)
class Limits:
    """What a run may use; one more and it ends with a clear word, not with a slow machine."""

    wall_s: float = 5.0
    """Seconds from the start of the code to its end, whatever it does meanwhile."""
    cpu_s: int = 5
    """Seconds of processor time, over all of its threads; counted for each process."""
    memory_bytes: int = 1 << 30
    """Address space of each process; resident memory of all of them together."""
    output_bytes: int = 200_000
    """stdout and stderr together."""
    disk_bytes: int = 32 << 20
    """Everything it writes into its own folder, which lives in memory and dies with it."""
    processes: int = 16
    """Processes and threads; the landlock tier allows threads only."""


@dataclass(frozen=True)
class Outcome:
    """What happened, as seen from outside: nothing here rests on what the code says of itself,
    except `values` and `pictures`, which are its product."""

    ended: Ended
    exit_code: int | None  # None when it did not end by itself
    stdout: str
    stderr: str
    seconds: float  # wall clock
    memory_bytes: int  # the largest resident size that was seen, of one process
    tier: Tier
    pictures: list[bytes] = field(default_factory=list)  # PNG files
    values: dict[int, Any] = field(default_factory=dict)  # call number -> its value as JSON
    errors: dict[int, str] = field(default_factory=dict)  # call number -> what it raised

    @property
    def ok(self) -> bool:
        return self.ended == "finished"


class SandboxUnavailable(UserError):
    """Neither tier can be had on this machine, so no code runs."""


class BadLimits(UserError):
    """A limit that cannot be kept."""


# @learn:inference.sandboxing
def run(
    code: str,
    limits: Limits | None = None,
    *,
    calls: Sequence[str] = (),
    on_output: OnOutput | None = None,
    cancel: threading.Event | None = None,
    tier: Tier | None = None,
    box: Box | None = None,
) -> Outcome:
    """Run a Python program in a fresh box and say how it ended. Blocks; any thread may call it.

    After the code, each of `calls` (an expression such as "softmax([1.0, 2.0])") is evaluated in
    what it left behind; the results come back in `values` or `errors`, by number. `box` is one that
    was started earlier with start_box, to save its start. Raises SandboxUnavailable.
    """
    limits = limits or Limits()
    if limits.wall_s <= 0 or limits.memory_bytes < 64 << 20:
        raise BadLimits("a run needs time and at least 64 MB of memory: raise wall_s, memory_bytes")
    if box is None:
        box = start_box(tier or pick_tier(), limits.disk_bytes)
    watch = Watch(box, limits, on_output or (lambda stream, text: None), cancel)
    job = {
        "code": code,
        "calls": list(calls),
        "cpu_s": limits.cpu_s,
        "memory_bytes": limits.memory_bytes,
        "processes": limits.processes if box.tier == "bubblewrap" else 0,
        "filter": box.late_filter().hex(),
    }
    return watch.until_the_end(json.dumps(job).encode())


@functools.cache
def why_not(tier: Tier) -> str:
    """Empty when the tier works here; found out by running a line of code in it."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return f"it needs Linux on {' or '.join(MACHINES)}"
    needed = ["bwrap"] if tier == "bubblewrap" else []
    needed += ["unshare", "setpriv"] if os.geteuid() == 0 else []
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        package = "bubblewrap" if "bwrap" in missing else "util-linux"
        return f"{', '.join(missing)} is not installed (Debian: apt-get install {package})"
    outcome = run("print(6 * 7)", Limits(wall_s=60), box=start_box(tier))
    if outcome.stdout == "42\n" and outcome.exit_code == 0:
        return ""
    said = (outcome.stderr.strip().splitlines() or [outcome.ended])[-1]
    return f"a line of code did not run in it: {said}"


# @learn:inference.sandboxing
def pick_tier(only: Tier | None = None) -> Tier:
    """The strongest tier that works here. Raises SandboxUnavailable with every reason."""
    reasons = []
    for tier in [only] if only else TIERS:
        reason = why_not(tier)
        if not reason:
            return tier
        reasons.append(f"{tier}: {reason}")
    raise SandboxUnavailable(
        f"code cannot be run safely here, so it is not run ({'; '.join(reasons)})"
    )


class Watch:
    """The parent's side of one run: feeds the job, reads what comes, ends it in time."""

    def __init__(
        self, box: Box, limits: Limits, on_output: OnOutput, cancel: threading.Event | None
    ) -> None:
        self.box, self.limits, self.on_output, self.cancel = box, limits, on_output, cancel
        self.text = {"stdout": bytearray(), "stderr": bytearray()}
        self.told = {"stdout": 0, "stderr": 0}
        self.results = bytearray()
        self.memory_bytes = 0
        self.stopped: Ended | None = None
        self.started = time.monotonic()

    def until_the_end(self, job: bytes) -> Outcome:
        """Give the box its job and watch until it ends, or end it; the outcome is never missing."""
        process = self.box.process
        try:
            self._talk(job)
            if self.stopped is None:
                self._wait_for_exit()
        finally:
            self.box.kill()  # whatever still lives, and every exit from here, an exception too
        seconds = time.monotonic() - self.started
        self._tell(final=True)
        values, errors, pictures = read_results(bytes(self.results))
        ended = self.stopped or ending(process.returncode)
        return Outcome(
            ended=ended,
            exit_code=process.returncode if ended in ("finished", "failed") else None,
            stdout=printable(bytes(self.text["stdout"])),
            stderr=printable(bytes(self.text["stderr"])),
            seconds=round(seconds, 4),
            memory_bytes=self.memory_bytes,
            tier=self.box.tier,
            pictures=pictures,
            values=values,
            errors=errors,
        )

    def _talk(self, job: bytes) -> None:
        """Write the job and read all pipes until they close or something runs out."""
        process, unsent = self.box.process, memoryview(job)
        assert process.stdin and process.stdout and process.stderr
        next_look = 0.0
        with selectors.DefaultSelector() as pipes:
            pipes.register(process.stdin, selectors.EVENT_WRITE, "stdin")
            pipes.register(process.stdout, selectors.EVENT_READ, "stdout")
            pipes.register(process.stderr, selectors.EVENT_READ, "stderr")
            pipes.register(self.box.results, selectors.EVENT_READ, "results")
            while pipes.get_map() and not self._must_stop():
                for key, _ in pipes.select(TICK_S):
                    if key.data == "stdin":
                        unsent = self._feed(pipes, key.fd, unsent)
                    elif not self._read(key.fd, key.data):
                        pipes.unregister(key.fileobj)
                if time.monotonic() >= next_look:
                    self._look_at_memory()
                    next_look = time.monotonic() + TICK_S
                self._tell()

    def _feed(self, pipes: selectors.BaseSelector, fd: int, unsent: memoryview) -> memoryview:
        assert self.box.process.stdin
        try:
            unsent = unsent[os.write(fd, unsent[:65536]) :]
        except BlockingIOError:
            return unsent
        except BrokenPipeError:  # it died before it had read everything
            unsent = unsent[:0]
        if not unsent:
            pipes.unregister(self.box.process.stdin)
            self.box.process.stdin.close()
        return unsent

    def _read(self, fd: int, name: str) -> bool:
        """Take what is there; False when the pipe has ended."""
        try:
            chunk = os.read(fd, 65536)
        except BlockingIOError:
            return True
        target = self.results if name == "results" else self.text[name]
        target += chunk
        over = len(self.results) > RESULT_BYTES
        if over or sum(map(len, self.text.values())) > self.limits.output_bytes:
            self.stopped = "too much output"
            self._cut()
        return bool(chunk)

    def _cut(self) -> None:
        """Keep what the limit allows, stdout first."""
        room = self.limits.output_bytes
        for text in self.text.values():
            del text[room:]
            room -= len(text)

    def _must_stop(self) -> bool:
        if self.stopped is None and self.cancel is not None and self.cancel.is_set():
            self.stopped = "cancelled"
        if self.stopped is None and time.monotonic() - self.started > self.limits.wall_s:
            self.stopped = "timed out"
        return self.stopped is not None

    def _wait_for_exit(self) -> None:
        """All pipes are closed, which code can do to itself and go on: the clock still counts."""
        while not self._must_stop():
            try:
                self.box.process.wait(TICK_S)
                return
            except subprocess.TimeoutExpired:
                continue

    def _look_at_memory(self) -> None:
        peak_bytes, together_bytes = self.box.memory()
        self.memory_bytes = max(self.memory_bytes, peak_bytes)
        if together_bytes > self.limits.memory_bytes:
            self.stopped = "killed"

    def _tell(self, final: bool = False) -> None:
        """Pass on new output; a character that is still incomplete waits for its other bytes."""
        for name, text in self.text.items():
            end = len(text) if final else whole_characters(text)
            if end > self.told[name]:
                self.on_output(name, printable(bytes(text[self.told[name] : end])))
                self.told[name] = end


def ending(code: int) -> Ended:
    """128 + signal is how a shell, and bubblewrap, report a program that a signal ended."""
    if code == 0:
        return "finished"
    if code in (128 + signal.SIGXCPU, -signal.SIGXCPU):
        return "timed out"
    return "killed" if code < 0 or 128 < code < 128 + 32 else "failed"


def whole_characters(text: bytes | bytearray) -> int:
    """How many bytes of `text` end on a whole UTF-8 character.

    >>> whole_characters("né".encode()[:2]), whole_characters("né".encode())
    (1, 3)
    """
    for back in range(1, min(4, len(text)) + 1):
        byte = text[-back]
        if byte >= 0xC0:
            needs = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(text) - back if needs > back else len(text)
        if byte < 0x80:
            break
    return len(text)


def printable(raw: bytes) -> str:
    r"""Text that cannot steer a terminal: control characters become pictures of themselves.

    >>> printable(b"a\x1b[2Jb\n")
    'a␛[2Jb\n'
    """
    return raw.decode("utf-8", "replace").replace("\r\n", "\n").translate(SHOWN)


def read_results(raw: bytes) -> tuple[dict[int, Any], dict[int, str], list[bytes]]:
    """The runner's lines, read with distrust: what is not of the agreed shape is dropped."""
    values: dict[int, Any] = {}
    errors: dict[int, str] = {}
    pictures: list[bytes] = []
    for line in raw.split(b"\n"):
        try:
            frame = json.loads(line)
            if "picture" in frame and len(pictures) < 8:
                picture = b64decode(frame["picture"], validate=True)
                if picture.startswith(PNG):
                    pictures.append(picture)
            elif isinstance(frame.get("call"), int) and "value" in frame:
                values[frame["call"]] = frame["value"]
            elif isinstance(frame.get("call"), int):
                errors[frame["call"]] = printable(str(frame.get("error"))[:500].encode())
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue
    return values, errors, pictures
