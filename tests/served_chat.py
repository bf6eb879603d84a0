"""The chat server on a free port of this machine: a process of its own, or a thread of the test's.

`spawned` starts the real command, or another program that becomes one; nothing of the test is in
that process, and a signal can be sent to it. `serving` is quicker to start, and lets a test look at
the server's objects. Read: Asked -> Served -> serving; Spawned -> spawned -> save_tiny_model.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn
from scripted_chat import ABOUT, ScriptedGPT
from tiny_models import byte_tokenizer, lively_model

from nanochat.atomic import write_atomically
from nanochat.checkpoint import save_checkpoint
from nanochat.engine import Engine
from nanochat.serve.chat_app import create_app
from nanochat.serve.engine_thread import EngineThread
from nanochat.serve.server import open_socket
from nanochat.serve.settings import ServeSettings

TESTS = Path(__file__).parent
CHAT_WEB = ("-m", "scripts.chat_web")
SCRIPTED = (str(TESTS / "scripted_chat.py"),)
WAIT_S = 120  # how long a busy machine may take for anything


@dataclass
class Asked:
    """A server that is asked over a socket."""

    client: httpx.Client
    address: tuple[str, int]

    def ask(self, text: str, **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": text}], **fields}
        return self.client.post("/chat/completions", json=body)

    def events(self, text: str, **fields: Any) -> list[str]:
        """The data of every event of a streamed answer."""
        response = self.ask(text, stream=True, **fields)
        assert response.headers["content-type"].startswith("text/event-stream")
        return events_of(response.text)

    @contextmanager
    def half_asked(self, text: str, **fields: Any) -> Iterator[socket.socket]:
        """Send a request and leave without reading the answer."""
        body = json.dumps({"messages": [{"role": "user", "content": text}], **fields})
        head = "POST /chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in self.keys().items())
        head += f"Content-Length: {len(body)}\r\n"
        with socket.create_connection(self.address) as wire:
            wire.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
            yield wire

    def keys(self) -> dict[str, str]:
        """The header with the API key, if there is one."""
        key = self.client.headers.get("authorization")
        return {"Authorization": key} if key else {}

    def until(self, **wanted: int) -> None:
        """Wait until /stats says so."""
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            stats = self.client.get("/stats").json()
            seen = {**stats, **stats["requests"]}
            if all(seen[name] == value for name, value in wanted.items()):
                return
            time.sleep(0.005)
        raise AssertionError(f"wanted {wanted}, last seen {stats}")


def events_of(text: str) -> list[str]:
    """The data of each server-sent event of a whole body."""
    frames = text.split("\n\n")
    assert frames.pop() == "" and all(frame.startswith("data: ") for frame in frames), text[-200:]
    return [frame.removeprefix("data: ") for frame in frames]


# --- in a thread ---


@dataclass
class Served(Asked):
    model: ScriptedGPT
    thread: EngineThread


@contextmanager
def serving(engine: Engine, **changes: Any) -> Iterator[Served]:
    """A real server on a free port, in a thread of its own."""
    settings = replace(ServeSettings(), port=0, **changes)
    app = create_app(settings, engine, ABOUT)
    bound = open_socket("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        time.sleep(0.005)
    address = bound.getsockname()[:2]
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}", timeout=60) as client:
        try:
            yield Served(client, address, engine.model, app.state.thread)
        finally:
            if isinstance(engine.model, ScriptedGPT):
                engine.model.go.set()
            server.should_exit = True
            thread.join()


# --- in a process ---


@dataclass
class Pace:
    """The scripted model of another process, as far as a test may turn it."""

    file: Path

    @property
    def delay_s(self) -> float:
        """Seconds that each step takes from now on."""
        return float(self.file.read_text())

    @delay_s.setter
    def delay_s(self, seconds: float) -> None:
        write_atomically(self.file, str(seconds))


@dataclass
class Spawned(Asked):
    process: subprocess.Popen[str]
    log: Path  # all that it wrote to stderr
    model: Pace
    said: list[str] = field(default_factory=list)  # all that it wrote to stdout

    def line(self) -> str:
        """The next line it prints; waits for it."""
        assert self.process.stdout is not None
        self.said.append(self.process.stdout.readline())
        assert self.said[-1], f"it ended: {self.log.read_text()[-2000:]}"
        return self.said[-1].strip()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)


@contextmanager
def spawned(
    base: Path, *flags: str, program: Sequence[str] = CHAT_WEB, key: str = ""
) -> Iterator[Spawned]:
    """`nanochat chat-web`, or the program given, as a process on a free port, in the folder `base`.

    Its stderr goes into the file `log`; `key` is sent with each request.
    """
    base.mkdir(parents=True, exist_ok=True)
    pace, log = base / "pace", base / f"{time.monotonic_ns()}.log"
    write_atomically(pace, "0.0")
    root = TESTS.parent
    paths = {"NANOCHAT_BASE_DIR": str(base), "PYTHONPATH": str(root), "PACE_FILE": str(pace)}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, *program, "--port", "0", *flags],
            stdout=subprocess.PIPE, stderr=errors, text=True, cwd=root,
            env={**os.environ, **paths},
        )  # fmt: skip
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        found = re.search(r"http://([\d.]+):(\d+)", ready)
        assert found, ready + log.read_text()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with httpx.Client(base_url=found[0], timeout=WAIT_S, headers=headers) as client:
            yield Spawned(client, (found[1], int(found[2])), process, log, Pace(pace))
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def save_tiny_model(base: Path) -> None:
    """A small random model for `nanochat chat-web`, which never ends an answer by itself.

    Special tokens score 0, far below the 50 best of the others, which are drawn from by default.
    """
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_kv_head": 2}  # the step in C can do these
    model = lively_model(sharpness=30.0, sequence_len=512, **sizes)
    tokenizer = byte_tokenizer()
    with torch.no_grad():
        model.head.weight[tokenizer.special("bos") :] = 0
    meta = {"model": asdict(model.config), "tokenizer": tokenizer.fingerprint()}
    tokenizer.save(base / "tokenizer")
    save_checkpoint(base / "checkpoints" / "sft" / "d2", 1, model.state_dict(), {}, meta)
