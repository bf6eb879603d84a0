"""The one chat server that `make up` started from this folder: its pid file, and how to stop it.

Called by scripts/build.py (`refuse_second_server` before it builds, `write_pid_file` just before it
becomes the server) and by scripts/down.py (`stop_server`). A pid is believed only while that
process really is a chat server: numbers are used again.
"""

import os
from pathlib import Path

import psutil

from nanochat.atomic import write_atomically
from nanochat.errors import UserError

SERVER = "scripts.chat_web"  # what the command line of the server says
STOP_WITHIN_S = 20.0  # a server may finish the answers it is writing


class ServerRuns(UserError):
    """There is a server already."""


class ServerStays(UserError):
    """The server was asked to stop and did not."""


def pid_file(base: Path) -> Path:
    return base / "server.pid"


def refuse_second_server(base: Path) -> None:
    """One server a folder: two would answer from one model on two ports, and one would be lost."""
    process = running_server(base)
    if process is not None and process.pid != os.getpid():
        raise ServerRuns(
            f"process {process.pid} already serves this model; stop it with `make down` first"
        )


def write_pid_file(base: Path) -> None:
    """Say that this process is about to become the server; refuses when there is one."""
    refuse_second_server(base)
    write_atomically(pid_file(base), f"{os.getpid()}\n")


def running_server(base: Path) -> psutil.Process | None:
    """The server the pid file names, if it is alive and is one."""
    try:
        process = psutil.Process(int(pid_file(base).read_text(encoding="utf-8")))
        return process if SERVER in process.cmdline() else None
    except (OSError, ValueError, psutil.Error):
        return None


def stop_server(base: Path, within_s: float = STOP_WITHIN_S) -> int | None:
    """Stop it with SIGTERM, so that it can finish its answers; returns its pid, or None."""
    process = running_server(base)
    if process is not None:
        process.terminate()
        try:
            process.wait(within_s)
        except psutil.TimeoutExpired:
            raise ServerStays(
                f"process {process.pid} has not stopped within {within_s:g} s; "
                f"end it with: kill -9 {process.pid}"
            ) from None
    pid_file(base).unlink(missing_ok=True)
    return process.pid if process else None
