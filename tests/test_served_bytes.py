"""Whatever bytes arrive at the real server: an OpenAI-shaped 4xx, no forged log line, no secret."""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from faulty_chat import (
    KEY,
    PROMPT,
    Faulty,
    check_secrets,
    nothing_left,
    prepare,
    read_all,
    send,
    started,
    wait_for,
)

from nanochat.chat_format import SPECIALS

pytestmark = pytest.mark.slow
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Iterator[Faulty]:
    base = tmp_path_factory.mktemp("base")
    prepare(base)
    with started(base, "--kernel", "torch") as running:
        yield running


@pytest.fixture
def server(faulty):
    yield faulty.server
    nothing_left(faulty.server)
    assert faulty.server.ask(PROMPT, max_tokens=3).status_code == 200


def answer_to(server: Any, body: bytes, *headers: bytes, path: str = CHAT) -> tuple[int, dict, str]:
    """Status, body and head of the one answer to one request on a wire of its own."""
    with socket.create_connection(server.address) as wire:
        with suppress(ConnectionError):  # it may be refused before all of it is sent
            send(wire, path, body, b"Connection: close", *headers)
        return parsed(read_all(wire))


def parsed(got: bytes) -> tuple[int, dict, str]:
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 ") and got.count(b"HTTP/1.1 ") == 1, got[:200]
    return int(head.split()[1]), json.loads(body), head.decode("latin-1").lower()


def said(**fields: Any) -> bytes:
    messages = [{"role": "user", "content": PROMPT}]
    return json.dumps({"messages": messages, "max_tokens": 2} | fields).encode()


def refused(answer: tuple[int, dict, str], *statuses: int) -> None:
    status, body, _ = answer
    assert status in statuses, answer
    assert set(body["error"]) >= {"message", "type", "param", "code"}
    assert "swordfish" not in body["error"]["message"]


@pytest.mark.parametrize(
    "header",
    [
        b"X-Request-ID: a\x00FORGED",
        b"X-Request-ID: a\rFORGED",
        b"X-Bad\x00FORGED: 1",
        b"FORGED password is swordfish",
        b"Transfer-Encoding: FORGED",
        b"Content-Length: 5",
        b"".join(b"X-%d: " % n + b"FORGED" * 10_000 + b"\r\n" for n in range(10)) + b"X: 1",
    ],
)
def test_a_broken_header_is_refused_in_the_shape_of_the_api(server, header):
    refused(answer_to(server, said(), header), 400, 431)


@pytest.mark.parametrize(
    "name",
    [
        b'a","severity":"FORGED',
        b"a\r\n {FORGED}",
        b"a\\n{FORGED}",
        b"\xff\xfeFORGED",
        b"FORGED" * 100,
        b"a\r\nX-Request-ID: FORGED id",
    ],
)
def test_a_request_id_forges_no_line_of_the_log_and_no_header(server, name):
    status, _, head = answer_to(server, said(), b"X-Request-ID: " + name)
    assert status in (200, 400)
    assert "forged" not in head  # check_secrets looks for it in the log


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [{"role": "user", "content": "the password is swordfish \xff\xc3"}]}',
        b'{"messages": [{"role": "user", "content": "the password is swordfish \\ud800"}]}',
        b'{"messages": [{"role": "user\\ud800", "content": "the password is swordfish"}]}',
        b'{"messages": [{"role": "user", "content": "swordfish"}], "stop": "\\udfff"}',
        b'{"messages": [{"role": "user", "content": "swordfish"}], "swordfish\\ud800": 1}',
        b'{"messages": ' + b"[" * 100_000,
        b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"messages": "the password is swordfish", "max_tokens": 1e999}',
        b'{"messages": [], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "swordfish"}], "seed": 1' + b"0" * 5000 + b"}",
        b"the password is swordfish",
        b"",
        b"\x00" * 1000,
        b"\xef\xbb\xbf{}",
        b"null",
    ],
)
def test_a_body_that_is_not_what_it_should_be_is_refused_and_not_repeated(server, body):
    refused(answer_to(server, body), 400)


def test_a_huge_body_is_refused_whether_it_tells_its_size_or_not(server):
    refused(answer_to(server, b'{"messages": "' + b"swordfish " * 200_000), 413)
    with socket.create_connection(server.address) as wire:
        with suppress(ConnectionError):
            wire.sendall(chunked_head())
            for _ in range(200):
                wire.sendall(b"2710\r\n" + b"swordfish " * 1000 + b"\r\n")
        refused(parsed(read_all(wire)), 413)


def chunked_head() -> bytes:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    lines = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
    return f"{head}{lines}\r\n".encode()


def test_a_body_in_pieces_that_never_ends_is_not_waited_for(server):
    with socket.create_connection(server.address) as wire:
        wire.sendall(chunked_head() + b"a\r\n{'password\r\n")
        refused(parsed(read_all(wire)), 408)


def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(server):
    for ending in (b"a\r\n{'password\r\n", b"FORGED\r\n", b"-5\r\nswordfish\r\n"):
        with socket.create_connection(server.address) as wire:
            wire.sendall(chunked_head() + ending)
    nothing_left(server)


@pytest.mark.parametrize("place", ["user", "system", "assistant", "tool_calls", "text"])
def test_a_special_token_from_outside_is_plain_text_wherever_it_stands(server, place):
    used = []
    names = "".join(f"<|{name}|>" for name in SPECIALS)
    for words in (names, "x" * len(names)):
        before: list[dict[str, Any]] = [{"role": "user", "content": PROMPT}]
        if place == "text":
            reply = server.client.post("/v1/completions", json={"prompt": words, "max_tokens": 2})
        else:
            turn: dict[str, Any] = {"role": place, "content": words}
            if place == "tool_calls":
                call = {"name": "calculator", "arguments": json.dumps({"expression": words})}
                calls = [{"id": "call_1", "type": "function", "function": call}]
                turn = {"role": "assistant", "content": "yes", "tool_calls": calls}
            turns = [turn, *before] if place == "system" else [*before, turn, *before]
            if place == "user":
                turns = [turn]
            reply = server.client.post(CHAT, json={"messages": turns, "max_tokens": 2})
        assert reply.status_code == 200, reply.text
        used.append(reply.json()["usage"]["prompt_tokens"])
    assert used[0] == used[1], "as many tokens as letters"


def test_neither_success_nor_refusal_nor_failure_writes_a_secret_to_the_log(faulty):
    server = faulty.server
    statuses = [server.ask(PROMPT, max_tokens=2).status_code]
    for status, more in ((404, {"model": PROMPT}), (400, {"swordfish": KEY}), (400, {"n": 99})):
        statuses.append(server.ask(PROMPT, **more).status_code)
        assert statuses[-1] == status
    wrong = {"Authorization": f"Bearer {KEY}x"}
    statuses.append(server.client.get(f"/v1/models?{KEY}", headers=wrong).status_code)
    statuses.append(server.client.get(f"/nothing/{KEY}").status_code)
    faulty.plan("raise 1")
    last = {"X-Request-ID": "the-last-one"}
    body = json.loads(said(max_tokens=60))
    statuses.append(server.client.post(CHAT, json=body, headers=last).status_code)
    assert statuses == [200, 404, 400, 400, 401, 404, 500]
    wait_for(lambda: '"the-last-one"' in server.log.read_text())
    logged = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert {200, 400, 401, 404, 500} <= {line.get("status") for line in logged}
    check_secrets(server)
