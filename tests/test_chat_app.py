"""The chat server over real sockets, around a model that knows its answers by heart."""

import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import pytest
from scripted_chat import ABOUT, MARKDOWN, SCRIPT, STORY, scripted_engine
from served_chat import Served, serving

from nanochat.serve.chat_app import STATIC


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(scripted_engine()) as running:
        yield running


def content_of(events: list[str]) -> str:
    chunks = [json.loads(event) for event in events[:-1]]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


# --- the answers ---


def test_a_stream_says_role_then_words_then_finish_with_usage_then_done(served):
    *chunks, done = served.events("Hello")
    first, *middle, last = [json.loads(chunk) for chunk in chunks]
    assert done == "[DONE]"
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(set(chunk["choices"][0]["delta"]) == {"content"} for chunk in middle)
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in [first, *middle])
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    usage = last["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == len(middle) + 1  # the token that ends the answer
    assert content_of([*chunks, done]) == SCRIPT["Hello"]
    assert {chunk["id"] for chunk in [first, *middle, last]} == {first["id"]}


@pytest.mark.parametrize("question", ["Hello", "Markdown", "Emoji", "Attack"])
def test_streamed_and_whole_answers_are_the_same_characters(served, question):
    whole = served.ask(question).json()
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["content"] == SCRIPT[question]
    assert content_of(served.events(question)) == SCRIPT[question]


def test_a_calculator_call_is_a_tool_call_followed_by_its_result(served):
    deltas = [json.loads(e)["choices"][0]["delta"] for e in served.events("What is 48*7?")[:-1]]
    call = next(d["tool_calls"][0] for d in deltas if "tool_calls" in d)
    result = next(d["tool_results"][0] for d in deltas if "tool_results" in d)
    assert call["function"]["name"] == "calculator"
    assert json.loads(call["function"]["arguments"]) == {"expression": "48*7"}
    assert result == {"tool_call_id": call["id"], "content": "336"}
    kinds = [next(iter(d)) for d in deltas if d and "role" not in d]
    assert kinds[:2] == ["tool_calls", "tool_results"] and set(kinds[2:]) == {"content"}


def test_two_calls_and_one_without_a_result_stay_apart(served):
    message = served.ask("Two sums").json()["choices"][0]["message"]
    ids = [call["id"] for call in message["tool_calls"]]
    assert [r["content"] for r in message["tool_results"]] == ["5", "25"]
    assert [r["tool_call_id"] for r in message["tool_results"]] == ids
    message = served.ask("Divide by zero").json()["choices"][0]["message"]
    assert len(message["tool_calls"]) == 1 and "tool_results" not in message
    assert message["content"] == "That has no value."


def test_an_answer_with_a_call_can_be_sent_back_as_parts(served):
    parts = [
        {"type": "python", "text": "48*7"},
        {"type": "python_output", "text": "336"},
        {"type": "text", "text": "48*7 is 336."},
    ]
    messages = [
        {"role": "user", "content": "What is 48*7?"},
        {"role": "assistant", "content": parts},
        {"role": "user", "content": "Hello"},
    ]
    reply = served.client.post("/chat/completions", json={"messages": messages}).json()
    assert reply["choices"][0]["message"]["content"] == SCRIPT["Hello"]


def test_the_token_limit_ends_an_answer_with_length(served):
    reply = served.ask("Count", max_tokens=5).json()
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 5


def test_the_same_seed_gives_the_same_answer_and_an_unseeded_one_tells_its_seed(served):
    def toss(**fields: Any) -> tuple[str, int]:
        reply = served.ask("Toss a coin", temperature=1, **fields).json()
        return reply["choices"][0]["message"]["content"], reply["seed"]

    tossed = {seed: toss(seed=seed)[0] for seed in range(12)}
    assert set(tossed.values()) == {"Heads it is.", "Tails it is."}
    assert {seed: toss(seed=seed)[0] for seed in range(12)} == tossed
    words, seed = toss()
    assert toss(seed=seed) == (words, seed)


@pytest.mark.parametrize("name", ["bos", "assistant_end", "python_start", "output_end"])
def test_special_token_text_from_a_user_stays_plain_text(served, name):
    text = f"<|{name}|>48*7<|{name}|>"
    message = served.ask(text).json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": f"You said: {text}"}


def test_many_clients_at_once_each_get_their_own_answer(served):
    questions = ["Hello", "Markdown", "Emoji", "Who are you?"] * 3
    with ThreadPoolExecutor(len(questions)) as clients:
        answers = clients.map(lambda q: content_of(served.events(q)), questions)
        assert list(answers) == [SCRIPT[question] for question in questions]
    served.until(running=0, waiting=0)


# --- what is refused, and how ---


def user(content: Any = "Hello") -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any = "Hi") -> dict[str, Any]:
    return {"role": "assistant", "content": content}


REFUSED = {
    "no messages": ({"messages": []}, "messages is empty"),
    "messages missing": ({}, "messages: Field required"),
    "empty message": ({"messages": [user(" \n")]}, "messages[0] from the user is empty"),
    "unknown role": ({"messages": [{"role": "tool", "content": "x"}]}, "(seen: 'tool')"),
    "number as content": ({"messages": [user(5)]}, "messages[0].content"),
    "assistant last": ({"messages": [user(), assistant()]}, "the last message is from the"),
    "two users": ({"messages": [user(), user()]}, "roles must alternate"),
    "system alone": ({"messages": [{"role": "system", "content": "x"}]}, "the last message"),
    "tool part from a user": (
        {"messages": [user([{"type": "python", "text": "1"}])]},
        "only an assistant message",
    ),
    "too many": ({"messages": [user(), assistant()] * 251 + [user()]}, "503 messages, limit 500"),
    "too long": ({"messages": [user("x" * 100_001)]}, "100,001 characters, limit 100,000"),
    "over the context": ({"messages": [user("word " * 3000)]}, "reads at most 2048"),
    "hot": ({"messages": [user()], "temperature": 2.1}, "temperature: Input should be less"),
    "infinite": ({"messages": [user()], "temperature": float("inf")}, "finite"),
    "not a number": ({"messages": [user()], "top_p": float("nan")}, "finite"),
    "top_p zero": ({"messages": [user()], "top_p": 0}, "top_p"),
    "top_k text": ({"messages": [user()], "top_k": "5"}, "top_k"),
    "max_tokens zero": ({"messages": [user()], "max_tokens": 0}, "max_tokens"),
    "max_tokens many": ({"messages": [user()], "max_tokens": 5000}, "limit 4096"),
    "unknown field": ({"messages": [user()], "logit_bias": {}}, "no such field; leave it out"),
    "a list": ([], "the body must be a JSON object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_request_gets_400_and_one_sentence(served, case):
    body, sentence = REFUSED[case]
    headers = {"Content-Type": "application/json"}
    response = served.client.post("/chat/completions", content=json.dumps(body), headers=headers)
    error = response.json()["error"]
    assert response.status_code == 400 and error["type"] == "invalid_request_error"
    assert sentence in error["message"]
    assert {"message", "type", "param", "code"} <= set(error)


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"{", {"Content-Type": "application/json"}),
        (b"[" * 100_000, {"Content-Type": "application/json"}),
        (b"\xff\xfe", {"Content-Type": "application/json"}),
        (b'{"messages": []}', {"Content-Type": "text/plain"}),
        (b"", {}),
    ],
)
def test_a_body_that_is_not_json_is_refused_in_the_same_shape(served, content, headers):
    response = served.client.post("/chat/completions", content=content, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_an_over_long_prompt_says_how_long_it_is_and_auto_truncation_leaves_out_old_turns(served):
    turns = [user("one " * 500), assistant(), user("two " * 500), assistant("Hi " * 500), user()]
    refused = served.client.post("/chat/completions", json={"messages": turns})
    error = refused.json()["error"]
    assert error["code"] == "context_length_exceeded" and error["context"] == 2048
    assert str(error["prompt_tokens"]) in error["message"]
    body = {"messages": turns, "truncation": "auto"}
    reply = served.client.post("/chat/completions", json=body).json()
    assert reply["choices"][0]["message"]["content"] == SCRIPT["Hello"]
    assert reply["dropped_messages"] in (2, 4)
    alone = {"messages": [user("word " * 3000)], "truncation": "auto"}
    refused = served.client.post("/chat/completions", json=alone)
    assert refused.json()["error"]["code"] == "context_length_exceeded"


def test_other_refusals_have_the_same_shape(served):
    large = served.client.post("/chat/completions", content=b"x" * 1_000_001)
    in_pieces = served.client.post("/chat/completions", content=iter([b"x" * 600_000] * 2))
    for response, status in [
        (large, 413),
        (in_pieces, 413),
        (served.client.get("/nothing"), 404),
        (served.client.get("/chat/completions"), 405),
        (served.client.get("/static/../chat_app.py"), 404),
        (served.ask("Hello", model="gpt-4"), 404),
    ]:
        assert response.status_code == status
        assert response.json()["error"]["message"]
    assert served.ask("Hello", model=ABOUT.name).status_code == 200


# --- many, gone and broken ---


def test_health_answers_while_the_model_works(served):
    served.model.go.clear()
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(served.ask, "Hello")
        served.until(running=1)
        assert served.client.get("/health").json() == {
            "status": "ok",
            "ready": True,
            "model": ABOUT.name,
        }
        assert not pending.done()
        served.model.go.set()
        assert pending.result().status_code == 200


def test_a_full_queue_answers_503_with_retry_after_and_recovers():
    with serving(scripted_engine(), running_limit=1, waiting_limit=1) as served:
        served.model.go.clear()
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(served.ask, "Hello")
            served.until(running=1)
            second = pool.submit(served.ask, "Hello")
            served.until(waiting=1)
            third = served.ask("Hello")
            assert third.status_code == 503 and int(third.headers["retry-after"]) >= 1
            assert third.json()["error"]["code"] == "queue_full"
            assert "queue_full" in answer_to_a_head(served), "before a body was sent"
            served.model.go.set()
            assert first.result().status_code == second.result().status_code == 200
        assert served.ask("Hello").status_code == 200


def answer_to_a_head(served: Served) -> str:
    """What a server says to a request whose body is still to come."""
    with socket.create_connection(served.address, 30) as wire:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        wire.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
        got = b""
        while not got.endswith(b"}") and (piece := wire.recv(65536)):
            got += piece
        return got.decode()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_work(served, stream):
    before = served.client.get("/stats").json()["requests"]["cancelled"]
    served.model.delay_s = 0.002  # the answer would take seconds
    try:
        with served.half_asked("Count", stream=stream, max_tokens=2000) as wire:
            served.until(running=1)
            if stream:
                assert wire.recv(100)
        served.until(cancelled=before + 1, running=0)
    finally:
        served.model.delay_s = 0.0
    assert served.ask("Hello").status_code == 200


def test_a_client_that_leaves_while_waiting_gives_its_place_back():
    with serving(scripted_engine(), running_limit=1, waiting_limit=1) as served:
        served.model.go.clear()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(served.ask, "Hello")
            served.until(running=1)
            with served.half_asked("Hello"):
                served.until(running=1, waiting=1)
            served.model.go.set()
            assert first.result().status_code == 200
        served.until(cancelled=1, finished=1, waiting=0, running=0)


def test_a_broken_engine_ends_each_answer_with_one_error_and_serves_the_next(served):
    events = served.events("Break")
    assert [event for event in events if '"error"' in event] == events[1:-1]
    assert json.loads(events[1])["error"]["code"] == "engine_failed"
    assert events[-1] == "[DONE]"
    whole = served.ask("Break")
    assert whole.status_code == 500 and whole.json()["error"]["code"] == "engine_failed"
    assert "scripted" not in whole.text  # the reason stays in the log
    assert served.ask("Hello").status_code == 200


def test_stopping_ends_running_and_waiting_answers_with_one_error_each():
    with serving(scripted_engine(), running_limit=1) as served:
        served.model.delay_s = 0.002
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(served.events, "Count", max_tokens=2000) for _ in range(2)]
            served.until(running=1, waiting=1)
            served.thread.stop()
            for events in (future.result() for future in asked):
                assert json.loads(events[-2])["error"]["code"] == "server_stopping"
                assert sum('"finish_reason":"' in event for event in events) == 0
        assert served.client.get("/health").status_code == 503
        refused = served.ask("Hello")
        assert refused.status_code == 503 and "retry-after" in refused.headers


def test_an_answer_in_progress_may_end_within_the_drain_time():
    with serving(scripted_engine()) as served:
        served.model.go.clear()
        with ThreadPoolExecutor(2) as pool:
            answer = pool.submit(served.events, "Hello")
            served.until(running=1)
            stopping = pool.submit(served.thread.stop, 60.0)
            served.model.go.set()
            assert content_of(answer.result()) == SCRIPT["Hello"]
            stopping.result()
        assert not served.thread.alive()


# --- the page and its headers ---


def test_the_page_and_its_files_come_with_a_strict_policy(served):
    for path in ["/", *(f"/static/{file.name}" for file in STATIC.iterdir())]:
        response = served.client.get(path)
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in served.client.get("/health").headers


def test_the_page_has_nothing_inline_and_loads_nothing_from_elsewhere():
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", html)
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(?:src|href|url|from|import)\W{1,3}(?:https?:)?//\w", text), file
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)


def test_every_path_the_page_asks_for_is_in_the_openapi_description(served):
    paths = set(served.client.get("/openapi.json").json()["paths"])
    scripts = "".join(file.read_text(encoding="utf-8") for file in STATIC.glob("*.js"))
    fetched = set(re.findall(r'fetch\("([^"]+)"', scripts))
    assert fetched == {"/v1/chat/completions", "/stats"} and fetched <= paths


def test_stats_tell_the_page_what_it_needs(served):
    stats = served.client.get("/stats").json()
    assert stats["model"] == {**asdict(ABOUT), "context": 2048}
    assert set(stats["defaults"]) == {"temperature", "top_k", "top_p", "max_tokens"}
    assert stats["limits"]["max_messages"] == 500


def test_the_scripted_answers_hold_the_hard_cases():
    """The tests above mean something only while the script has them."""
    assert "```" in MARKDOWN and "<script>" in str(SCRIPT["Attack"]) and len(STORY) > 100
