"""Build a box: a process that can harm nobody, waiting on its stdin for the code to run.

Called by execution.py. Read: start_box -> bubblewrap_command -> landlock_command -> staged (for
root) -> Box.

Root's boxes run as a real other user, because the kernel exempts root from the limit of processes
whatever a namespace says. That user may be unable to reach a Python that lives in root's home, so
root first shows it at /mnt, in a mount namespace that nobody else sees.
"""

import importlib.util
import os
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil

from nanochat.execution_seccomp import program

Tier = Literal["bubblewrap", "landlock"]
TIERS: tuple[Tier, ...] = ("bubblewrap", "landlock")
RUNNER = Path(__file__).with_name("execution_runner.py")
BOX_USER = 64917  # no account has it; only root can become it, and only boxes are it
STAGE = "/mnt"  # exists on every Linux system; covered only inside the box's own mount namespace
GONE_MS = 10_000  # how long the kernel may take to end what it was told to end
QUICK = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
CLEAN = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"} | QUICK

# $1 size, $2 inodes, then pairs FROM NAME until --, then the command that runs in this mount space
STAGE_SCRIPT = f"""set -e
mount -t tmpfs -o size=1m,mode=755 none {STAGE}; cd {STAGE}
mkdir own; mount -t tmpfs -o size=$1,nr_inodes=$2,mode=777 none own; shift 2
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir "$2"; else : >"$2"; fi
  mount --bind "$1" "$2"; shift 2
done
shift; cd /; exec "$@"
"""


class Box:
    """A started box and the ends of its pipes. Use it once, or kill it."""

    def __init__(self, tier: Tier, command: list[str], pass_fds: list[int]) -> None:
        self.tier = tier
        self.results, inner = os.pipe()
        try:
            self.process = subprocess.Popen(
                [word.replace("{results}", str(inner)) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[inner, *pass_fds],
                env=CLEAN,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(self.results)
            raise
        finally:
            for fd in (inner, *pass_fds):
                os.close(fd)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        os.set_blocking(self.results, False)

    def late_filter(self) -> bytes:
        """The filter that must know the number of its process; bubblewrap installs its own."""
        return program(alone_pid=self.process.pid) if self.tier == "landlock" else b""

    def memory(self) -> tuple[int, int]:
        """Resident bytes: (the largest that one process ever had, all of them now)."""
        peak, together = 0, 0
        for pid in self._inside():
            with suppress(OSError, ValueError, KeyError):  # it ended meanwhile
                status = Path(f"/proc/{pid}/status").read_text("utf-8")
                sizes = dict(line.split(":", 1) for line in status.splitlines() if "kB" in line)
                peak = max(peak, int(sizes["VmHWM"].split()[0]) * 1024)
                together += int(sizes["VmRSS"].split()[0]) * 1024
        return peak, together

    def _inside(self) -> list[int]:
        with suppress(psutil.Error):
            process = psutil.Process(self.process.pid)
            return [process.pid, *(child.pid for child in process.children(recursive=True))]
        return []

    def _watched(self) -> list[int]:
        """A descriptor for each process inside, readable once it has ended."""
        found = []
        for pid in self._inside()[1:]:
            with suppress(ProcessLookupError):
                found.append(os.pidfd_open(pid))
        return found

    def kill(self) -> None:
        """End the box and all that runs in it; its pipes are closed. May be repeated.

        When this returns nothing of it is left. Of a box that ended by itself neither: its first
        program is number 1 in there, and the kernel ends all the others before that one is gone.
        """
        if self.process.poll() is None:
            inside = self._watched()
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # bubblewrap takes its PIDs with it
            for fd in inside:
                wait_for_end(fd)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        if self.results >= 0:
            os.close(self.results)
            self.results = -1


def wait_for_end(process_fd: int) -> None:
    """Until the process has ended, reaped or not; closes the descriptor."""
    ended = select.poll()
    ended.register(process_fd, select.POLLIN)
    ended.poll(GONE_MS)
    os.close(process_fd)


def start_box(tier: Tier, disk_bytes: int = 32 << 20) -> Box:
    """A box that waits for its job. Costs some tens of milliseconds, so one can be kept ready."""
    if tier == "landlock":
        return Box(tier, landlock_command(disk_bytes), [])
    filter_fd = os.memfd_create("filter")
    os.write(filter_fd, program())
    os.lseek(filter_fd, 0, os.SEEK_SET)
    return Box(tier, bubblewrap_command(disk_bytes, filter_fd), [filter_fd])


def compile_figures() -> None:
    """Let Python keep matplotlib compiled. A box may not write, so it would compile at each run.

    Some installers compile what they install and others don't; nothing happens without matplotlib.
    """
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        return
    kept = importlib.util.cache_from_source(str(Path(found.origin).with_name("pyplot.py")))
    if not Path(kept).exists():
        program = "import matplotlib.pyplot, matplotlib.backends.backend_agg"
        with tempfile.TemporaryDirectory() as folder:
            env = CLEAN | {"MPLCONFIGDIR": folder}
            subprocess.run([sys.executable, "-c", program], env=env, capture_output=True)


def places() -> dict[str, str]:
    """What a box sees of our files: its name there -> where it is."""
    seen = {"packages": sysconfig.get_path("purelib"), "runner.py": str(RUNNER)}
    if not sys.base_prefix.startswith("/usr"):
        seen["python"] = sys.base_prefix
    return seen


def staged(disk_bytes: int, command: list[str]) -> list[str]:
    """Root's way in: a private mount space with everything under STAGE, then another user."""
    pairs = [word for name, path in places().items() for word in (path, name)]
    user = str(BOX_USER)
    return [
        *("unshare", "--mount", "--propagation", "private", "sh", "-c", STAGE_SCRIPT, "stage"),
        *(str(disk_bytes), "4096", *pairs, "--"),
        *("setpriv", "--reuid", user, "--regid", user, "--clear-groups"),
        *("--inh-caps=-all", "--bounding-set=-all", *command),
    ]


def python_command(python: str, packages: str, runner: str) -> list[str]:
    return [python, "-I", "-S", "-B", "-u", runner, packages, "{results}"]


def python_name() -> str:
    """The interpreter's path below its prefix, such as bin/python3.11."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"bin/python{version}"


def bubblewrap_command(disk_bytes: int, filter_fd: int) -> list[str]:
    """The command that starts a box of namespaces around the runner."""
    root = os.geteuid() == 0
    shown = {name: f"{STAGE}/{name}" for name in places()} if root else places()
    command = [
        *("bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"),
        *("--as-pid-1", "--die-with-parent", "--new-session", "--clearenv", "--hostname", "box"),
        *("--ro-bind", "/usr", "/usr"),
    ]
    for name in ("bin", "lib", "lib64", "lib32", "sbin"):
        if os.path.islink(f"/{name}"):
            command += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            command += ["--ro-bind", f"/{name}", f"/{name}"]
    for name, path in shown.items():
        command += ["--ro-bind", path, f"/{name}"]
    if root:
        command += ["--bind", f"{STAGE}/own", "/own"]
    else:
        command += ["--size", str(disk_bytes), "--tmpfs", "/own"]
    command += ["--symlink", "own", "/tmp", "--dev", "/dev", "--remount-ro", "/dev"]
    command += ["--remount-ro", "/", "--chdir", "/own", "--seccomp", str(filter_fd)]
    for name, value in (CLEAN | {"HOME": "/own", "LD_LIBRARY_PATH": "/python/lib"}).items():
        command += ["--setenv", name, value]
    python = f"/python/{python_name()}" if "python" in shown else sys.base_prefix + "/bin/python3"
    command += ["--", *python_command(python, "/packages", "/runner.py")]
    return staged(disk_bytes, command) if root else command


def landlock_command(disk_bytes: int) -> list[str]:
    """The command that starts the runner where Landlock alone keeps it in."""
    seen = places()
    if os.geteuid() != 0:
        python = f"{sys.base_prefix}/{python_name()}"
        return python_command(python, seen["packages"], seen["runner.py"])
    shown = {name: f"{STAGE}/{name}" for name in seen}
    python = f"{shown['python']}/{python_name()}" if "python" in shown else "/usr/bin/python3"
    library = ["env", f"LD_LIBRARY_PATH={STAGE}/python/lib", f"MPLCONFIGDIR={STAGE}/own"]
    command = python_command(python, shown["packages"], shown["runner.py"])
    return staged(disk_bytes, [*library, *command])
