"""Two servers in threads that behave like the Hugging Face hub and its CDN, faults included.

    with fake_hub() as hub:
        hub.files["shard_00000.parquet"] = b"..."
        hub.faults["shard_00000.parquet"] = [Fault(status=503), Fault(cut_at=1000)]
        ...                                     # one fault is used up by each request to the CDN
        hub.requests                            # what was asked: (server, path, headers)

The hub answers /datasets/OWNER/NAME/resolve/main/PATH with a redirect to the CDN, which stands on
another port (another origin: a token must not reach it) and serves byte ranges.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Fault:
    """What goes wrong with one request: a status, a body cut after `cut_at` bytes, a flipped bit,
    a range that is ignored."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    corrupt: bool = False
    ignore_range: bool = False


@dataclass
class FakeHub:
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    small: set[str] = field(default_factory=set)  # served by the hub itself, with git's hash
    token: str | None = None  # required when set
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    endpoint: str = ""
    cdn: str = ""

    def asked_of(self, server: str) -> list[dict[str, str]]:
        return [headers for name, _, headers in self.requests if name == server]

    def git_hash(self, content: bytes) -> str:
        return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    role: str
    state: FakeHub

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        state = self.state
        lowered = {name.lower(): value for name, value in self.headers.items()}
        state.requests.append((self.role, self.path, lowered))
        name = self.path.split("/resolve/main/")[-1].removeprefix("/cdn/")
        if (
            self.role == "hub"
            and state.token
            and lowered.get("authorization") != (f"Bearer {state.token}")
        ):
            return self.answer(401)
        if name not in state.files:
            return self.answer(404)
        content = state.files[name]
        if self.role == "hub" and name not in state.small:
            digest = hashlib.sha256(content).hexdigest()
            linked = {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            return self.answer(302, {"Location": f"{state.cdn}/cdn/{name}", **linked})
        self.send_file(name, content, lowered.get("range"))

    def send_file(self, name: str, content: bytes, wanted: str | None) -> None:
        queue = self.state.faults.get(name, [])
        fault = queue.pop(0) if queue else Fault()
        if fault.status:
            return self.answer(fault.status, fault.headers)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        headers = {"ETag": f'"{self.state.git_hash(content)}"'}
        if start >= len(content) and start and not fault.ignore_range:
            return self.answer(416, {"Content-Range": f"bytes */{len(content)}"})
        status = 200
        if wanted and not fault.ignore_range:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[start:]
        if fault.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        self.answer(status, headers, content, fault.cut_at)

    def answer(
        self,
        status: int,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        cut_at: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut_at])
        if cut_at is not None:
            self.close_connection = True  # in the middle of the body that was announced


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Both servers running on free ports of the loopback interface."""
    state = FakeHub()
    servers = []
    for role in ("hub", "cdn"):
        handler = type(f"{role}Handler", (Handler,), {"role": role, "state": state})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
    state.endpoint = f"http://127.0.0.1:{servers[0].server_port}"
    state.cdn = f"http://127.0.0.1:{servers[1].server_port}"
    try:
        yield state
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
