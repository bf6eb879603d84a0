"""Attacks 1 to 21: hostile programs, and what would show that one of them got out of its box.

Called by `nanochat sandbox check` and the tests. Each attack runs twice: inside the box, and
outside without it as the positive control, where it must succeed, or the probe would prove nothing.
What decides is seen from outside wherever possible: a file that appeared, a packet that arrived.
Attacks 22 to 25 go against the server and stand in serve/bridge_attacks.py.
Read: Scene (the bait) -> Attack -> try_attack -> outside -> load_attacks.
"""

import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from nanochat.execution import PNG, Limits, Outcome, printable, run
from nanochat.execution_boxes import Tier
from nanochat.execution_seccomp import MACHINES, NUMBERS

LIMITS = Limits(wall_s=20, cpu_s=20, memory_bytes=512 << 20)
PATIENCE_S = 1.0  # an endless program is stopped after this
REACHED = "REACHED"


@dataclass
class Scene:
    """The bait: a secret in files, environments and descriptors, listeners, a process to kill."""

    folder: Path
    secret: str
    tcp: socket.socket
    udp: socket.socket
    unix: socket.socket
    victim: subprocess.Popen[bytes]
    open_fd: int

    def context(self) -> dict[str, Any]:
        """What an attack is told: where the bait lies."""
        column = MACHINES[platform.machine()][0]
        return {
            "secret": self.secret,
            "file": str(self.folder / "secret.png"),
            "target": str(self.folder / "written"),
            "tcp": self.tcp.getsockname()[1],
            "udp": self.udp.getsockname()[1],
            "unix": self.unix.getsockname()[1:].decode(),
            "victim": self.victim.pid,
            "name": self.secret[:12],
            "calls": {name: numbers[column] for name, numbers in NUMBERS.items()},
        }

    def arrived(self) -> bool:
        """Did a connection or a packet come in? Takes all, so the next look starts afresh."""
        found = False
        for listener in (self.tcp, self.unix, self.udp):
            with suppress(BlockingIOError):
                while True:
                    if listener is self.udp:
                        listener.recv(100)
                    else:
                        listener.accept()[0].close()
                    found = True
        return found

    def survivors(self) -> list[psutil.Process]:
        """Processes that go by the name an attack gave itself."""
        found = []
        for process in psutil.process_iter(["name"]):
            if process.info["name"] == self.secret[:12]:
                found.append(process)
        return found


@contextmanager
def scene() -> Iterator[Scene]:
    """Everything an attack could reach, set up and taken away again."""
    secret = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="nanochat-bait-") as name:
        folder = Path(name)
        (folder / "secret.png").write_bytes(PNG + secret.encode())
        (folder / "secret.png").chmod(0o600)
        (folder / "work").mkdir()
        tcp = socket.create_server(("127.0.0.1", 0))
        unix = socket.socket(socket.AF_UNIX)
        unix.bind("\0nanochat-" + secret[:16])
        unix.listen()
        udp = socket.socket(type=socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        for listener in (tcp, unix, udp):
            listener.setblocking(False)
        victim = subprocess.Popen(["sleep", "600"], env={"PATH": "/usr/bin:/bin", "TOKEN": secret})
        open_fd = os.open(folder / "secret.png", os.O_RDONLY)
        os.set_inheritable(open_fd, True)
        try:
            yield Scene(folder, secret, tcp, udp, unix, victim, open_fd)
        finally:
            victim.kill()
            victim.wait()
            os.close(open_fd)
            for listener in (tcp, unix, udp):
                listener.close()


Check = Callable[[Scene, Outcome], bool]


def said_so(scene: Scene, outcome: Outcome) -> bool:
    return REACHED in outcome.stdout


@dataclass(frozen=True)
class Attack:
    """`code` sees the bait's addresses as `ctx`; `reached` says whether it got out."""

    number: int
    title: str
    code: str
    reached: Check = said_so
    reached_outside: Check | None = None  # where outside needs other eyes
    endless: bool = False  # it succeeds by not ending
    again: str = ""  # a second program, run after the first has ended; it tells
    machine_may_refuse: bool = False  # some kernels stop this one outside too
    limits: Limits = field(default=LIMITS)


@dataclass(frozen=True)
class Finding:
    """How one attack went."""

    number: int
    title: str
    contained: bool
    control: bool  # the same attack succeeded without the box
    detail: str


def try_attack(attack: Attack, bait: Scene, tier: Tier) -> Finding:
    """Inside, then outside."""
    limits = Limits(wall_s=PATIENCE_S) if attack.endless else attack.limits
    first = program_of(attack.code, bait)
    inside = run(first, limits, calls=["answer()"], tier=tier)
    if attack.again:
        inside = run(program_of(attack.again, bait), limits, tier=tier)
    got_out = inside.ended != "timed out" if attack.endless else attack.reached(bait, inside)
    got_out = got_out or bait.secret.encode() in b"".join(inside.pictures)
    free = outside(first, bait)
    if attack.again:
        free = outside(program_of(attack.again, bait), bait)
    look = attack.reached_outside or attack.reached
    control = free.ended == "timed out" if attack.endless else look(bait, free)
    end_all(bait.survivors())
    detail = f"inside it {inside.ended}"
    if inside.stderr.strip():
        detail += f": {inside.stderr.strip().splitlines()[-1][:120]}"
    if not control and attack.machine_may_refuse:
        control, detail = True, f"{detail}; this machine refuses it outside a box too"
    return Finding(attack.number, attack.title, not got_out, control, detail)


def end_all(processes: Iterable[psutil.Process]) -> None:
    """Kill them; one that has ended by itself meanwhile is fine."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def program_of(code: str, bait: Scene) -> str:
    return f"ctx = {bait.context()!r}\n{textwrap.dedent(code)}"


def outside(code: str, bait: Scene) -> Outcome:
    """The positive control: plain Python with our own rights; no attack harms its host."""
    started = time.monotonic()
    leader, follower = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", code],
        cwd=bait.folder / "work",
        env=os.environ | {"TOKEN": bait.secret},
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        close_fds=False,
        start_new_session=True,
    )
    stopped = False
    try:
        out, err = process.communicate(timeout=PATIENCE_S if "endless" in code else 60)
    except subprocess.TimeoutExpired:
        stopped = True
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
    finally:
        os.close(leader)
        os.close(follower)
    return Outcome(
        "timed out" if stopped else "finished",
        process.returncode,
        out.decode("utf-8", "replace"),
        printable(err),
        time.monotonic() - started,
        0,
        "landlock",
    )


def wrote(bait: Scene, outcome: Outcome) -> bool:
    """Whether the attack left a file outside; takes it away."""
    written = bait.folder / "written"
    found = written.exists()
    written.unlink(missing_ok=True)
    return found


def killed(bait: Scene, outcome: Outcome) -> bool:
    with suppress(subprocess.TimeoutExpired):
        bait.victim.wait(0.2)
    return bait.victim.poll() is not None


def passed(bait: Scene, outcome: Outcome) -> bool:
    """Did a forged frame become our verdict? Only values we ask for count, and they are wrong."""
    return "passed" in outcome.values or outcome.values.get(0) == "the right answer"


def fooled(bait: Scene, outcome: Outcome) -> bool:
    """A naive grader believes what it reads on stdout."""
    return '"passed": true' in outcome.stdout


def load_attacks() -> list[Attack]:
    """The programs stand in execution_attacks.txt, each under a line `=== NUMBER TITLE`."""
    checks: dict[int, dict[str, Any]] = {
        3: {"reached": wrote},
        7: {"endless": True},
        8: {"endless": True},
        9: {"reached": lambda bait, outcome: bool(bait.survivors())},
        12: {"reached": lambda bait, outcome: "\x1b" in outcome.stdout},
        13: {"reached": lambda bait, outcome: bait.arrived()},
        14: {"reached": lambda bait, outcome: bait.arrived()},
        16: {"machine_may_refuse": True},
        17: {"reached": killed},
        19: {"machine_may_refuse": True},
        21: {"reached": passed, "reached_outside": fooled},
    }
    text = Path(__file__).with_name("execution_attacks.txt").read_text("utf-8")
    found = []
    for part in text.split("\n=== ")[1:]:
        head, _, code = part.partition("\n")
        number, _, title = head.partition(" ")
        code, _, again = code.partition("--- then\n")
        found.append(Attack(int(number), title, code, again=again, **checks.get(int(number), {})))
    return found
