"""What breaks while the real server runs as a process: each request still has exactly one end.

Three answers are written and others wait, streamed and whole, with either kernel. When a server has
ended, what it logged is looked through for prompts and keys (faulty_chat.py).
"""

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from faulty_chat import (
    KEY,
    POOR_KEY,
    PROMPT,
    Faulty,
    end_of,
    nothing_left,
    prepare,
    read_all,
    send,
    started,
    text_of,
    wait_for,
    wait_for_open,
)
from served_chat import WAIT_S, Spawned

pytestmark = pytest.mark.slow
CROWD = 8  # of them 3 write, 5 wait


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The tiny model, and the step in C once it is compiled."""
    folder = tmp_path_factory.mktemp("base")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def of_kernel(base) -> Iterator[Callable[[str], Faulty]]:
    """of_kernel(name) -> a living server with that kernel: the last one, or a new one."""
    living: dict[str, Faulty] = {}
    with ExitStack() as stack:

        def one(kernel: str) -> Faulty:
            kept = living.get(kernel)
            if kept is None or not kept.alive():
                living[kernel] = stack.enter_context(started(base, "--kernel", kernel))
            return living[kernel]

        yield one


@pytest.fixture(params=["torch", "c"])
def faulty(request, of_kernel) -> Iterator[Faulty]:
    yield from lent(of_kernel(request.param))


@pytest.fixture
def in_c(of_kernel) -> Iterator[Faulty]:
    yield from lent(of_kernel("c"))


def lent(faulty: Faulty) -> Iterator[Faulty]:
    yield faulty
    faulty.forget()
    if faulty.alive():
        nothing_left(faulty.server)
        assert faulty.server.ask(PROMPT, max_tokens=3).status_code == 200


# --- what is looked at ---


def post(server: Spawned, number: int, **more: Any) -> httpx.Response:
    """One of the many kinds of request: old and new path, chat or text, streamed or whole."""
    text = f"{PROMPT}, said {number}"
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
    path = ("/chat/completions", "/v1/chat/completions", "/v1/completions")[number % 3]
    if path == "/v1/completions":
        body = {"prompt": text}
    body |= {"max_tokens": 60, "seed": number, "stream": number % 2 == 0} | more
    if body["stream"] and path.startswith("/v1"):
        body["stream_options"] = {"include_usage": True}
    return server.client.post(path, json=body)


def crowd(server: Spawned, pool: ThreadPoolExecutor, **more: Any) -> list[Future]:
    return [pool.submit(post, server, number, **more) for number in range(CROWD)]


# --- the engine ---


def test_scores_that_are_no_numbers_end_one_answer_and_its_neighbours_end_as_ever(faulty):
    server = faulty.server
    faulty.plan(f"nan {CROWD}")
    with ThreadPoolExecutor(CROWD) as pool:
        answers = [future.result() for future in crowd(server, pool)]
    ends = [end_of(answer) for answer in answers]
    assert server.line() == "nan"
    assert sorted(ends) == ["length"] * (CROWD - 1) + ["nan_logits"]
    for number, (end, answer) in enumerate(zip(ends, answers, strict=True)):
        if end == "length":
            assert text_of(answer) == text_of(post(server, number)), "as if nothing had been"
        elif number % 2:
            assert answer.status_code == 500
    page = server.client.get("/metrics").text
    (corrupted,) = [row for row in page.splitlines() if row.startswith("nanochat_corrupted_req")]
    assert float(corrupted.rsplit(" ", 1)[1]) == 1


def test_a_step_that_breaks_ends_all_that_were_open_and_the_next_are_answered(faulty):
    server = faulty.server
    faulty.plan(f"raise {CROWD}")
    with ThreadPoolExecutor(CROWD) as pool:
        answers = [future.result() for future in crowd(server, pool, max_tokens=200)]
    assert server.line() == "raise"
    assert [end_of(answer) for answer in answers] == ["engine_failed"] * CROWD
    assert {a.status_code for a in answers[1::2]} == {500}
    assert server.client.get("/readyz").status_code == 200
    wait_for(lambda: '"the engine failed"' in server.log.read_text())


@pytest.mark.parametrize("first_streams", [True, False])
def test_a_client_may_leave_in_the_queue_while_its_prompt_is_read_and_while_it_is_answered(
    faulty, first_streams
):
    server = faulty.server
    before = server.client.get("/stats").json()["requests"]["cancelled"]
    faulty.plan("leave 4 3")
    more = {"max_tokens": 100}
    with ExitStack() as wires, ThreadPoolExecutor(1) as pool:
        for place, text in enumerate(("writes", "is read " + "x" * 150, "waits")):
            streams = (place % 2 == 0) == first_streams
            wires.enter_context(server.half_asked(f"{PROMPT} {text}", stream=streams, **more))
            wait_for_open(server, place + 1)
        stays = pool.submit(post, server, 0, **more)
        assert server.line() == "reads"
        wires.close()  # the three leave; the fourth is answered
        assert end_of(stays.result()) == "length"
    assert server.line() == "left decode prefill queue"
    server.until(cancelled=before + 3)


def test_an_engine_killed_in_the_middle_ends_each_answer_once_and_says_it_is_dead(faulty):
    server = faulty.server
    before = server.client.get("/stats").json()["requests"]["failed"]
    faulty.plan(f"kill {CROWD}")
    with ThreadPoolExecutor(CROWD) as pool:
        answers = [future.result() for future in crowd(server, pool, max_tokens=200)]
    assert server.line() == "kill"
    assert [end_of(answer) for answer in answers] == ["engine_failed"] * CROWD
    assert {server.client.get(path).status_code for path in ("/livez", "/readyz")} == {503}
    refused = post(server, 1)
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
    server.until(running=0, waiting=0, failed=before + CROWD)
    nothing_left(server)
    assert server.stop() == 0


# --- what OpenAI's client makes of it ---


def client_of(server: Spawned, key: str = KEY) -> openai.OpenAI:
    base = f"http://localhost:{server.address[1]}/v1"
    return openai.OpenAI(base_url=base, api_key=key, max_retries=0, timeout=WAIT_S)


def chat(client: openai.OpenAI, **more: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": PROMPT}]
    model = client.models.list().data[0].id
    return client.chat.completions.create(**{"model": model, "messages": messages} | more)


def test_openais_client_raises_what_ends_a_stream(in_c):
    client = client_of(in_c.server)
    in_c.plan("raise 1")
    seen = []
    with pytest.raises(openai.APIError) as broken:
        for chunk in chat(client, stream=True, max_tokens=200):
            seen.append(chunk)
    assert len(seen) > 1 and broken.value.code == "engine_failed"
    assert "the model failed" in broken.value.message
    in_c.plan("raise 1")
    with pytest.raises(openai.InternalServerError):
        chat(client, max_tokens=200)
    assert chat(client, max_tokens=4).usage.completion_tokens == 4
    assert [in_c.server.line() for _ in range(2)] == ["raise", "raise"]


def test_openais_client_knows_each_refusal_by_its_class(in_c):
    server = in_c.server
    with pytest.raises(openai.AuthenticationError) as refused:
        client_of(server, "nc-not-a-key").models.list()
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        chat(client_of(server), model="gpt-4")
    assert missing.value.code == "model_not_found"
    hasty = client_of(server, POOR_KEY)
    with pytest.raises(openai.RateLimitError) as too_fast:
        for _ in range(1000):  # far quicker than 150 a minute
            with pytest.raises(openai.BadRequestError):
                chat(hasty, n=99)
    assert int(too_fast.value.response.headers["retry-after"]) >= 1
    in_c.plan("hold")
    with ThreadPoolExecutor(23) as pool:
        asked = [pool.submit(post, server, number, max_tokens=8) for number in range(23)]
        wait_for_open(server, 23)  # 3 rows and 20 places to wait
        with pytest.raises(openai.InternalServerError) as full:
            chat(client_of(server))
        in_c.forget()
        assert {end_of(future.result()) for future in asked} == {"length"}
    assert full.value.status_code == 503 and full.value.code == "queue_full"
    assert int(full.value.response.headers["retry-after"]) >= 1


# --- its surroundings ---


def test_a_full_disk_and_a_closed_collector_harm_no_request(base):
    away = ("--log", "/dev/full", "--otlp-endpoint", "http://127.0.0.1:9")
    with started(base, *away) as faulty, ThreadPoolExecutor(CROWD) as pool:
        server = faulty.server
        answers = [future.result() for future in crowd(server, pool)]
        assert [end_of(answer) for answer in answers] == ["length"] * CROWD
        nothing_left(server)
        page = server.client.get("/metrics").text
        total = {
            name: float(line.rsplit(" ", 1)[1])
            for line in page.splitlines()
            for name in ("log_lines_lost", "spans_sent")
            if line.startswith(f"nanochat_{name}")
        }
        assert total["log_lines_lost"] >= 1 and total["spans_sent"] == 0
        assert server.stop() == 0


def test_sigterm_ends_each_stream_once_within_9_s_though_the_collector_hangs(base):
    with ExitStack() as stack:
        hanging = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # never answers
        where = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        faulty = stack.enter_context(started(base, "--otlp-endpoint", where))
        pool = stack.enter_context(ThreadPoolExecutor(CROWD))
        server = faulty.server
        assert server.ask(PROMPT, max_tokens=3).status_code == 200
        faulty.plan("slow 0.1")  # 200 tokens take 20 s, and the server waits 5
        asked = crowd(server, pool, max_tokens=200)
        wait_for_open(server, CROWD)
        server.until(running=3)
        started_at = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        ends = [end_of(future.result()) for future in asked]
        took_s = time.monotonic() - started_at
        assert server.process.wait(WAIT_S) == 0
    assert ends == ["server_stopping"] * CROWD
    assert took_s < 9, "a promise of the server: its platform waits for ten seconds"


def test_a_client_that_reads_nothing_is_cut_off_and_holds_nobody_up(base):
    flags = ("--slow-reader-s", "1", "--kernel", "c")  # far from the deadline
    body = {"messages": [{"role": "user", "content": PROMPT}], "logprobs": True, "stream": True}
    body |= {"n": 8, "max_tokens": 400, "top_logprobs": 20}
    with started(base, *flags) as faulty, socket.socket() as wire:
        server = faulty.server
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.connect(server.address)
        path = "/v1/chat/completions"
        send(wire, path, json.dumps(body).encode(), b"X-Request-ID: reads-nothing")
        assert [end_of(post(server, number)) for number in range(4)] == ["length"] * 4
        wait_for(lambda: '"reads-nothing"' in server.log.read_text())
        nothing_left(server)
        got = read_all(wire)  # ends while the server goes on: the connection is gone
        assert "without completing" not in server.log.read_text()
    assert got.startswith(b"HTTP/1.1 200") and b"[DONE]" not in got, len(got)
