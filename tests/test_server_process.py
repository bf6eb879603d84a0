"""`make down` stops the server that runs from this folder, and nothing else."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nanochat import server_process
from scripts import down


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


def start_something(*extra: str, program: str = "import time; time.sleep(60)") -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", program, *extra])


def test_down_stops_the_server_that_the_pid_file_names(base, capsys):
    server = start_something("scripts.chat_web")
    server_process.pid_file(base).write_text(f"{server.pid}\n")
    assert down.main([]) == 0
    assert not psutil.pid_exists(server.pid)
    assert f"process {server.pid}" in capsys.readouterr().out
    assert not server_process.pid_file(base).exists()


@pytest.mark.parametrize(
    "content",
    [None, "", "not a pid", "999999999", pytest.param(str(os.getpid()), id="somebody else's")],
)
def test_down_says_so_when_no_server_runs(base, content, capsys):
    """The last case: a number that belongs to somebody else by now."""
    if content is not None:
        server_process.pid_file(base).write_text(content)
    assert down.main([]) == 0
    assert capsys.readouterr().out == "no chat server was running\n"


def test_a_server_that_will_not_stop_is_reported_with_the_last_remedy(base):
    ready = base / "ready"
    deaf = (
        "import signal, time, sys; signal.signal(15, signal.SIG_IGN); "
        "open(sys.argv[2], 'w'); time.sleep(60)"
    )
    server = start_something("scripts.chat_web", str(ready), program=deaf)
    deadline = time.monotonic() + 120
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    server_process.pid_file(base).write_text(str(server.pid))
    with pytest.raises(server_process.ServerStays, match=f"kill -9 {server.pid}"):
        server_process.stop_server(base, within_s=0.3)
    server.kill()
    server.wait()


def test_a_second_server_is_refused_while_the_first_one_lives(base):
    server = start_something("scripts.chat_web")
    deadline = time.monotonic() + 30
    while b"chat_web" not in Path(f"/proc/{server.pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline  # a new process shows its name a moment later
    server_process.pid_file(base).write_text(str(server.pid))
    with pytest.raises(server_process.ServerRuns, match="make down"):
        server_process.write_pid_file(base)
    server.kill()
    server.wait()
    server_process.write_pid_file(base)
    assert server_process.pid_file(base).read_text() == f"{os.getpid()}\n"
