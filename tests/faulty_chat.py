"""A chat server in a process of its own that faults can be planned for, and what it must keep to.

faulty_server.py is `nanochat chat-web` with one fault in it. Whatever a test asks holds PROMPT, and
whatever any of these servers logs must not. Used by test_served_faults.py, test_served_bytes.py.
Read: started -> Faulty -> end_of -> nothing_left -> check_secrets -> send.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from served_chat import TESTS, WAIT_S, Spawned, events_of, save_tiny_model, spawned

from nanochat.atomic import write_atomically
from nanochat.serve.access import hash_of

PROMPT = "the password is swordfish"
KEY, POOR_KEY = "nc-a-key-of-the-tests", "nc-the-key-of-someone-in-a-hurry"
FAULTY = (str(TESTS / "faulty_server.py"),)


def prepare(base: Path) -> None:
    """The tiny model and the keys."""
    save_tiny_model(base)
    (base / "keys").write_text(f"anna {hash_of(KEY)}\nbob {hash_of(POOR_KEY)}\n")


class Faulty:
    """A server that a fault can be planned for."""

    def __init__(self, server: Spawned, plan: Path) -> None:
        self.server, self.file = server, plan

    def plan(self, words: str) -> None:
        write_atomically(self.file, words)

    def alive(self) -> bool:
        """The process runs, and the engine in it."""
        gone = self.server.process.poll() is not None
        return not gone and self.server.client.get("/livez").status_code == 200

    def forget(self) -> None:
        self.file.unlink(missing_ok=True)


@contextmanager
def started(base: Path, *flags: str) -> Iterator[Faulty]:
    """A server with room for 3 answers; what it wrote is looked through when it has ended."""
    plan = base / f"plan-{time.monotonic_ns()}"
    small = ("--running-limit", "3", "--waiting-limit", "20", "--read-tokens", "16")
    keys = ("--api-keys-file", str(base / "keys"), "--requests-per-minute", "150")
    times = ("--upload-s", "3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAN_FILE", str(plan))
        with spawned(base, *small, *keys, *times, *flags, program=FAULTY, key=KEY) as server:
            try:
                yield Faulty(server, plan)
            finally:
                plan.unlink(missing_ok=True)
    check_secrets(server)


def end_of(response: httpx.Response) -> str:
    """How the one end of an answer is called; fails where there is none or more than one."""
    if not response.headers["content-type"].startswith("text/event-stream"):
        body = response.json()
        if response.status_code == 200:
            (choice,) = body["choices"]
            return choice["finish_reason"]
        assert set(body["error"]) >= {"message", "type", "param", "code"}
        return body["error"]["code"]
    assert response.status_code == 200
    return end_of_stream(events_of(response.text))


def end_of_stream(events: list[str]) -> str:
    assert events.count("[DONE]") == 1 and events[-1] == "[DONE]", events[-3:]
    chunks = [json.loads(event) for event in events[:-1]]
    ends = [c["finish_reason"] for chunk in chunks for c in chunk.get("choices", ())]
    ends = [end for end in ends if end is not None]
    ends += [chunk["error"]["code"] for chunk in chunks if "error" in chunk]
    assert len(ends) == 1, ends
    after = next(i for i, e in enumerate(events) if 'finish_reason":"' in e or '"error"' in e)
    assert all(json.loads(e)["choices"] == [] for e in events[after + 1 : -1]), "only the usage"
    return ends[0]


def text_of(response: httpx.Response) -> str:
    """The words of an answer, streamed or whole."""
    if not response.headers["content-type"].startswith("text/event-stream"):
        (choice,) = response.json()["choices"]
        return choice["text"] if "text" in choice else choice["message"]["content"]
    chunks = [json.loads(event) for event in events_of(response.text)[:-1]]
    choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
    return "".join(c.get("text", c.get("delta", {}).get("content")) or "" for c in choices)


def nothing_left(server: Spawned) -> None:
    """No gauge and no block tells of a request that is gone."""
    server.until(running=0, waiting=0, kv_cache_usage=0, kv_blocks_held=0)
    page = server.client.get("/metrics").text
    gauges = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    for gauge in gauges:
        (line,) = [row for row in page.splitlines() if row.startswith(f"nanochat_{gauge}{{")]
        assert float(line.rsplit(" ", 1)[1]) == 0, line


def check_secrets(server: Spawned) -> None:
    """Neither prompts nor keys nor broken bodies in what it wrote."""
    written = server.log.read_text("utf-8", "replace") + "".join(server.said)
    for secret in ("swordfish", "password is", KEY, POOR_KEY, hash_of(KEY)[:16], "FORGED"):
        assert secret not in written, secret
    for line in server.log.read_text().splitlines():
        json.loads(line)  # and nothing but the structured log


def wait_for_open(server: Spawned, count: int) -> None:
    """Until so many answers are written or wait."""

    def reached() -> bool:
        stats = server.client.get("/stats").json()
        return stats["running"] + stats["waiting"] == count

    wait_for(reached)


def wait_for(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.005)


def send(wire: socket.socket, path: str, body: bytes, *headers: bytes) -> None:
    head = [
        f"POST {path} HTTP/1.1".encode(),
        b"Host: localhost",
        b"Authorization: Bearer " + KEY.encode(),
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        *headers,
    ]
    wire.sendall(b"\r\n".join(head) + b"\r\n\r\n" + body)


def read_all(wire: socket.socket) -> bytes:
    """What comes until the server closes the connection, by a reset too."""
    wire.settimeout(WAIT_S)
    got = b""
    try:
        while piece := wire.recv(1 << 16):
            got += piece
    except ConnectionResetError:
        pass
    return got
