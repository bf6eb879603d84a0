"""Refusals at the door: slow uploads, bytes that are no HTTP, requests that can never fit; what is
counted and charged; and what the log and the probes say when something breaks or hangs."""

import json
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import uvicorn
from logged import logged
from observed import samples
from scripted_chat import scripted_engine
from served_chat import Served, serving

from nanochat.observe.logs import stack_of
from nanochat.serve import server
from nanochat.serve.access import Rates
from nanochat.serve.engine_thread import DrainRate
from nanochat.serve.server import ChatServer, Protocol, open_socket

SECRET = "the password is swordfish"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(scripted_engine()) as running:
        yield running


def reply_of(wire: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of a response that is followed by the end of the connection."""
    wire.settimeout(60)
    data = b""
    while piece := wire.recv(65536):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body


def error_of(body: bytes) -> dict[str, Any]:
    error = json.loads(body)["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    return error


# --- a body that does not come ---


def post_head(size_bytes: int) -> bytes:
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {size_bytes}\r\n\r\n"
    return head.encode()


def test_half_a_body_is_answered_with_408_and_the_end_of_the_connection():
    with serving(scripted_engine(), upload_s=0.1) as served:
        with socket.create_connection(served.address) as wire:
            wire.sendall(post_head(1000) + b'{"messages": [')
            status, headers, body = reply_of(wire)
        assert (status, headers["connection"]) == (408, "close")
        assert "0.1 s" in error_of(body)["message"]
        assert served.ask("Hello").status_code == 200


@pytest.mark.slow
def test_a_body_that_trickles_gets_no_more_time_than_one_that_stops():
    with ExitStack() as stack:
        served = stack.enter_context(serving(scripted_engine(), upload_s=0.3))
        wire = stack.enter_context(socket.create_connection(served.address))
        wire.sendall(post_head(100_000))
        while not select.select([wire], [], [], 0.01)[0]:
            wire.sendall(b" ")  # 1,000 s until it is complete
        assert reply_of(wire)[0] == 408


@pytest.mark.slow
def test_an_answer_may_take_longer_than_the_upload():
    with serving(scripted_engine(delay_s=0.03), upload_s=0.3) as served:
        for stream in (False, True):
            answer = served.ask("Count", max_tokens=15, stream=stream)
            assert answer.status_code == 200 and "length" in answer.text


# --- bytes that are no HTTP ---


async def small_app(scope: Any, receive: Any, send: Any) -> None:
    """Refuses all but /stream, without reading a body; that one begins an answer and waits."""
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 401, "headers": []})
    if scope["path"] == "/stream":
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
    await send({"type": "http.response.body", "body": b"no"})


@pytest.fixture(scope="module")
def door() -> Iterator[tuple[str, int]]:
    """The address of a server that speaks our protocol."""
    with small_server() as address:
        yield address


@contextmanager
def small_server() -> Iterator[tuple[str, int]]:
    bound = open_socket("127.0.0.1", 0)
    config = uvicorn.Config(small_app, http=Protocol, log_level="critical", lifespan="off")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
    thread.start()
    while not running.started:
        time.sleep(0.005)
    yield bound.getsockname()[:2]
    running.should_exit = True
    thread.join()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Name: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX Name: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-Name: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Name: " + b"a" * 70_000,
    ],
)
def test_what_is_no_http_is_refused_in_the_shape_of_the_api(door, sent):
    with socket.create_connection(door) as wire:
        wire.sendall(sent)
        status, headers, body = reply_of(wire)
    assert (status, headers["content-type"]) == (400, "application/json")
    assert error_of(body)["type"] == "invalid_request_error"


def test_a_broken_body_ends_an_answer_that_is_on_its_way_without_a_second_one(door):
    with socket.create_connection(door) as wire:
        wire.sendall(b"POST /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        wire.settimeout(60)
        begun = b""
        while b"begun" not in begun:
            begun += wire.recv(1000)
        wire.sendall(b"no chunk\r\n")
        rest = b""
        while piece := wire.recv(1000):
            rest += piece
    assert b"HTTP/1.1" not in rest


def test_a_client_that_was_refused_may_not_send_its_body_for_ever(door, monkeypatch):
    monkeypatch.setattr(server, "LINGER_S", 0.05)
    with socket.create_connection(door) as wire, pytest.raises(ConnectionError):
        wire.sendall(post_head(1_000_000))
        while True:
            wire.sendall(b" ")
            time.sleep(0.005)


def test_the_chat_server_speaks_this_protocol(served):
    app: Any = small_app
    assert ChatServer(app, lambda: None).config.http is Protocol


# --- what can never fit, what is counted, what is charged ---


def test_more_answers_than_the_server_has_places_are_no_matter_of_trying_again(served):
    body = {"prompt": ["a"] * 8, "n": 8, "max_tokens": 1}
    refused = served.client.post("/v1/completions", json=body)
    error = error_of(refused.content)
    assert refused.status_code == 400 and "limit 48" in error["message"]
    assert error["param"] == "prompt" and "retry-after" not in refused.headers
    fits = served.client.post("/v1/completions", json=body | {"n": 6})
    assert fits.status_code == 200 and len(fits.json()["choices"]) == 48


def test_a_refusal_for_the_rate_of_a_key_is_counted_like_any_other():
    with serving(scripted_engine(), requests_per_minute=1) as served:
        assert [served.ask("Hello").status_code for _ in range(3)] == [200, 429, 429]
        page = samples(served.client.get("/metrics").content)
    why = frozenset({("reason", "rate_limit_exceeded")})
    assert page["nanochat_admission_rejections_total", why] == 2


def test_every_prompt_is_counted_and_charged_once_however_many_answers_it_gets(served, monkeypatch):
    charged: list[int] = []
    monkeypatch.setattr(Rates, "spend", lambda self, who, tokens: charged.append(tokens))

    def usage(prompt: Any, n: int = 1, **more: Any) -> dict[str, int]:
        body = {"prompt": prompt, "n": n, "max_tokens": 1, **more}
        return served.client.post("/v1/completions", json=body).json()["usage"]

    one, other = usage("Once"), usage("There was a lamp")
    assert one["prompt_tokens"] != other["prompt_tokens"]
    both = usage(["Once", "There was a lamp"], n=3)
    assert both["prompt_tokens"] == one["prompt_tokens"] + other["prompt_tokens"]
    assert both["completion_tokens"] == 6
    assert both["total_tokens"] == both["prompt_tokens"] + 6
    assert charged == [u["total_tokens"] for u in (one, other, both)]
    body = {"prompt": ["Once", "There was a lamp"], "n": 3, "max_tokens": 1, "stream": True}
    stream = served.client.post(
        "/v1/completions", json=body | {"stream_options": {"include_usage": True}}
    )
    assert json.loads(stream.text.split("data: ")[-2])["usage"] == both


def test_a_flood_of_refusals_delays_nobody_beyond_one_turn_of_all_places():
    rate = DrainRate(places=8)
    for i in range(21):
        rate.ended(i * 0.5)  # two a second: all eight places turn over in four seconds
    promised = [rate.retry_after_s(10.0) for _ in range(1000)]
    assert promised[:8] == [1, 1, 2, 2, 3, 3, 4, 4] and set(promised[8:]) == {4}
    assert len(rate.promises) == 8
    assert rate.retry_after_s(15.0) == 1  # what was promised is over, and nothing is left of it


# --- what the log says of a failure ---


def test_a_stack_names_kinds_and_places_and_quotes_no_exception():
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            error.add_note(SECRET)
            group = ExceptionGroup(SECRET, [ValueError(SECRET), error])
            raise RuntimeError(SECRET) from group
    except RuntimeError as error:
        stack = stack_of(error)
    assert "swordfish" not in stack
    assert stack.count("from:") == 3 and "test_serving_refusals.py" in stack
    for kind in ("RuntimeError", "ExceptionGroup", "ValueError", "KeyError"):
        assert f"\n{kind}" in stack


def test_an_exception_that_is_its_own_cause_is_told_once():
    error = ValueError("a")
    error.__cause__ = error
    assert stack_of(error) == "ValueError"


def test_a_failure_that_carries_the_prompt_and_the_key_is_logged_without_them(monkeypatch):
    engine = scripted_engine()

    def fail(conversation: Any) -> None:
        raise RuntimeError(f"can't read {conversation}")

    monkeypatch.setattr(engine.tokenizer, "render_for_completion", fail)
    with (
        serving(engine) as served,
        logged() as ours,
        logged("uvicorn.error") as theirs,
    ):
        served.client.headers["Authorization"] = "Bearer sk-swordfish"
        failed = served.ask(SECRET)
        for _ in range(4000):  # the web server logs it after it has answered
            if any("stack" in line for line in theirs):
                break
            time.sleep(0.005)
    assert failed.status_code == 500 and "swordfish" not in failed.text
    assert error_of(failed.content)["type"] == "server_error"
    assert "swordfish" not in str([ours, theirs])
    (stack,) = [line["stack"] for line in theirs if "stack" in line]
    assert "RuntimeError" in stack and "read_prompt" in stack
    assert any(line.get("error_type") == "RuntimeError" for line in ours)


def test_an_engine_that_breaks_on_a_prompt_does_not_log_it(monkeypatch):
    engine = scripted_engine()
    monkeypatch.setattr(
        engine.model, "next_tokens", lambda history: (_ for _ in ()).throw(ValueError(SECRET))
    )
    with serving(engine) as served, logged() as lines:
        assert served.ask(SECRET).status_code == 500
    assert "swordfish" not in str(lines)
    assert any("ValueError" in line.get("stack", "") for line in lines)


def test_no_log_means_no_line_anywhere():
    """In a process of its own: what has no handler at all is printed by Python itself."""
    code = (
        "import logging; from nanochat.observe.logs import start_logging; start_logging('none'); "
        "logging.getLogger('uvicorn.error').error('a', exc_info=ValueError('swordfish'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


# --- an engine that hangs ---


def test_a_step_that_does_not_end_turns_the_probes_off_until_it_does():
    with serving(scripted_engine(), stuck_s=0.05) as served:

        def until(status: int, word: str) -> None:
            for path in ("/livez", "/readyz", "/health"):
                seen: Any = None
                for _ in range(4000):
                    seen = served.client.get(path)
                    if (seen.status_code, seen.json()["status"]) == (status, word):
                        break
                    time.sleep(0.005)
                else:
                    raise AssertionError(f"{path} still says {seen.status_code} {seen.text}")

        time.sleep(0.1)  # a long rest is no trouble
        assert served.client.get("/livez").status_code == 200
        served.model.go.clear()
        with served.half_asked("Hello"):
            until(503, "engine stuck")
            served.model.go.set()
            until(200, "ok")


def test_the_probe_waits_for_no_lock_of_the_engine():
    with serving(scripted_engine()) as served, served.thread.changed:
        assert served.client.get("/livez").status_code == 200
