"""The chat server on a free port of this machine, in a thread of the test's own process.

Used by test_chat_app.py and browser/test_chat_page.py. Read: serving -> Served.
"""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import uvicorn
from scripted_chat import ABOUT, ScriptedGPT

from nanochat.engine import Engine
from nanochat.serve.chat_app import create_app
from nanochat.serve.engine_thread import EngineThread
from nanochat.serve.server import open_socket
from nanochat.serve.settings import ServeSettings


@dataclass
class Served:
    client: httpx.Client
    model: ScriptedGPT
    thread: EngineThread
    address: tuple[str, int]

    def ask(self, text: str, **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": text}], **fields}
        return self.client.post("/chat/completions", json=body)

    def events(self, text: str, **fields: Any) -> list[str]:
        """The data of every event of a streamed answer."""
        response = self.ask(text, stream=True, **fields)
        assert response.headers["content-type"].startswith("text/event-stream")
        frames = response.text.split("\n\n")
        assert frames.pop() == "" and all(frame.startswith("data: ") for frame in frames)
        return [frame.removeprefix("data: ") for frame in frames]

    @contextmanager
    def half_asked(self, text: str, **fields: Any) -> Iterator[socket.socket]:
        """Send a request and leave without reading the answer."""
        body = json.dumps({"messages": [{"role": "user", "content": text}], **fields})
        head = "POST /chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Length: {len(body)}\r\n"
        with socket.create_connection(self.address) as wire:
            wire.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
            yield wire

    def until(self, **wanted: int) -> None:
        """Wait until /stats says so."""
        for _ in range(2000):
            stats = self.client.get("/stats").json()
            seen = {**stats, **stats["requests"]}
            if all(seen[name] == value for name, value in wanted.items()):
                return
            time.sleep(0.005)
        raise AssertionError(f"wanted {wanted}, last seen {stats}")


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
            yield Served(client, engine.model, app.state.thread, address)
        finally:
            if isinstance(engine.model, ScriptedGPT):
                engine.model.go.set()
            server.should_exit = True
            thread.join()
