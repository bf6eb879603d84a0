"""The API as other people's tools see it: OpenAI's own client, over real sockets."""

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from scripted_chat import ABOUT, SCRIPT, scripted_engine
from served_chat import SCRIPTED, Asked, serving, spawned
from tiny_models import byte_tokenizer, lively_model

from nanochat.engine import Engine

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module", params=["thread", pytest.param("process", marks=pytest.mark.slow)])
def served(request, tmp_path_factory) -> Iterator[Asked]:
    """Quick to start in a thread; in the whole run also as a process of its own."""
    if request.param == "thread":
        with serving(scripted_engine()) as running:
            yield running
    else:
        with spawned(tmp_path_factory.mktemp("base"), program=SCRIPTED) as running:
            yield running


def client_of(served: Asked, key: str = "none") -> openai.OpenAI:
    base = f"http://localhost:{served.address[1]}/v1"
    return openai.OpenAI(base_url=base, api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def client(served) -> openai.OpenAI:
    return client_of(served)


def chat(client: openai.OpenAI, text: str = "Hello", **more: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=ABOUT.name, messages=messages, **more)


# --- what works ---


def test_the_client_reads_a_whole_answer_and_its_usage(client):
    reply = chat(client)
    assert reply.choices[0].message.content == SCRIPT["Hello"]
    assert reply.choices[0].finish_reason == "stop" and reply.object == "chat.completion"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_the_client_reads_a_stream_whose_usage_comes_alone_at_the_end(client):
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    *words, usage = chunks
    assert "".join(c.choices[0].delta.content or "" for c in words) == SCRIPT["Hello"]
    assert [c.choices[0].finish_reason for c in words][-1] == "stop"
    assert usage.choices == [] and usage.usage.completion_tokens == len(words) - 1
    assert all(c.usage is None for c in chat(client, stream=True))


def test_the_client_sees_tool_calls_streamed_and_whole_and_may_send_them_back(client):
    message = chat(client, "What is 48*7?").choices[0].message
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments) == {"expression": "48*7"}
    streamed = [
        delta.tool_calls[0].function.arguments
        for chunk in chat(client, "What is 48*7?", stream=True)
        if (delta := chunk.choices[0].delta).tool_calls
    ]
    assert streamed == [call.function.arguments]
    history = [
        {"role": "user", "content": "What is 48*7?"},
        message.model_dump(exclude_none=True),
        *HELLO,
    ]
    again = client.chat.completions.create(model=ABOUT.name, messages=history)
    assert again.choices[0].message.content == SCRIPT["Hello"]


def test_n_answers_have_n_seeds_and_each_can_be_had_alone(client):
    reply = chat(client, "Toss a coin", n=8, seed=5, temperature=1)
    tossed = [choice.message.content for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == list(range(8))
    assert set(tossed) == {"Heads it is.", "Tails it is."}
    alone = [chat(client, "Toss a coin", seed=5 + i, temperature=1) for i in range(8)]
    assert [reply.choices[0].message.content for reply in alone] == tossed
    texts = ["" for _ in range(8)]
    ends = []
    for chunk in chat(client, "Toss a coin", n=8, seed=5, temperature=1, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        ends += [choice.index] if choice.finish_reason else []
    assert texts == tossed and sorted(ends) == list(range(8))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "kept"),
    [(" help", "Hello! How can I"), (["zzz", "!"], "Hello"), ("today?!", SCRIPT["Hello"])],
)
def test_a_stop_word_ends_the_answer_just_before_it(client, stop, kept, stream):
    reply = chat(client, stop=stop, stream=stream)
    if stream:
        chunks = list(reply)
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == kept
        assert chunks[-1].choices[0].finish_reason == "stop"
    else:
        assert reply.choices[0].message.content == kept
        assert reply.choices[0].finish_reason == "stop"


def test_logprobs_name_the_token_its_bytes_and_its_rivals(client):
    reply = chat(client, "Emoji", logprobs=True, top_logprobs=2, temperature=0)
    content = reply.choices[0].logprobs.content
    assert bytes(b for c in content for b in c.bytes).decode() == SCRIPT["Emoji"]
    assert all(c.logprob == pytest.approx(0, abs=1e-3) for c in content)
    assert all(len(c.top_logprobs) == 2 for c in content)
    assert all(c.top_logprobs[0].logprob >= c.top_logprobs[1].logprob for c in content)
    streamed = [
        chance.token
        for chunk in chat(client, "Hello", logprobs=True, stream=True)
        if chunk.choices[0].logprobs
        for chance in chunk.choices[0].logprobs.content
    ]
    assert "".join(streamed) == SCRIPT["Hello"]


def test_completions_go_on_from_a_text_or_from_ids_as_the_engine_alone_does():
    engine = Engine(lively_model(1), byte_tokenizer())
    with serving(engine) as served:
        client = client_of(served)
        wishes: dict[str, Any] = {"model": ABOUT.name, "max_tokens": 12, "seed": 3}
        reply = client.completions.create(prompt="Once", **wishes)
        ids = client.completions.create(prompt=list(b"Once"), **wishes)
        two = client.completions.create(prompt=["Once", "Twice"], **wishes)
        assert reply.choices[0].text == ids.choices[0].text == two.choices[0].text
        assert two.choices[1].text != two.choices[0].text
        streamed = list(client.completions.create(prompt="Once", stream=True, **wishes))
        assert "".join(chunk.choices[0].text for chunk in streamed) == reply.choices[0].text
        logged = client.completions.create(prompt="Once", logprobs=3, **wishes).choices[0].logprobs
        assert len(logged.tokens) == len(logged.token_logprobs) == len(logged.text_offset)
        assert all(-math.inf < p <= 0 for p in logged.token_logprobs)


def test_models_are_listed_and_found_by_name(client):
    assert [model.id for model in client.models.list()] == [ABOUT.name]
    assert client.models.retrieve(ABOUT.name).id == ABOUT.name
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_the_newer_names_of_fields_are_understood(client):
    messages: list[Any] = [{"role": "developer", "content": "Be kind."}, *HELLO]
    reply = client.chat.completions.create(
        model=ABOUT.name, messages=messages, max_completion_tokens=3, user="u-1"
    )
    assert reply.usage.completion_tokens == 3 and reply.choices[0].finish_reason == "length"


# --- what is refused ---


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"tools": []}, "tools"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 9}, "limit 8"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_can_not_be_done_is_refused_by_name(client, fields, word):
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, **fields)
    assert word in refused.value.message
    assert refused.value.body["type"] == "invalid_request_error"


@pytest.mark.parametrize("text", ["a\x00b", "a\x1b[31mb", "\U000e0041hidden", "\u202e" * 51])
def test_characters_that_only_a_trick_would_send_are_refused(served, text):
    refused = served.ask(text)
    assert (
        refused.status_code == 400 and "messages[0].content" in refused.json()["error"]["message"]
    )


def test_half_a_surrogate_pair_is_refused_like_any_bad_character(served):
    body = b'{"messages": [{"role": "user", "content": "\\ud800"}]}'
    headers = {"Content-Type": "application/json"}
    for path in ("/chat/completions", "/v1/chat/completions"):
        refused = served.client.post(path, content=body, headers=headers)
        assert refused.status_code == 400, refused.text
    refused = served.client.post(
        "/v1/completions", content=b'{"prompt": "\\ud800"}', headers=headers
    )
    assert refused.status_code == 400, refused.text


@pytest.mark.parametrize("prompt", [[], [[1, 2]], [10**9], "x" * 100_001, [399], 5, ["a"] * 9])
def test_a_bad_prompt_of_a_completion_is_refused(served, prompt):
    refused = served.client.post("/v1/completions", json={"prompt": prompt})
    assert refused.status_code == 400 and refused.json()["error"]["message"]


def test_metrics_tell_what_happened_and_gauges_return_to_zero(client, served):
    chat(client)
    served.until(running=0, waiting=0)
    page = served.client.get("/metrics").text
    values = dict(
        line.rsplit(" ", 1) for line in page.splitlines() if line and not line.startswith("#")
    )
    label = f'{{engine="0",model_name="{ABOUT.name}"}}'
    assert float(values[f"nanochat_num_requests_running{label}"]) == 0
    assert float(values[f"nanochat_num_requests_waiting{label}"]) == 0
    assert float(values[f"nanochat_kv_cache_usage_perc{label}"]) == 0
    stopped = 'nanochat_request_success_total{engine="0",finished_reason="stop",model_name='
    assert float(values[f'{stopped}"{ABOUT.name}"}}']) > 0


def test_probes_answer_without_a_word_about_the_model(served):
    for path in ("/livez", "/readyz", "/startupz"):
        response = served.client.get(path)
        assert response.status_code == 200 and response.json() == {"status": "ok"}


def test_the_id_of_a_request_comes_back_and_a_forged_one_does_not(served):
    fine = served.client.get("/livez", headers={"X-Request-ID": "order-66"})
    assert fine.headers["x-request-id"] == "order-66"
    forged = served.client.get("/livez", headers={"X-Request-ID": "a b\tc"})
    assert forged.headers["x-request-id"] != "a b\tc"


def test_a_frame_of_text_is_the_same_json_as_the_long_way():
    from nanochat.serve.replies import ChatReply

    class OneTicket(list):
        pass

    reply = ChatReply("m", OneTicket([None]), byte_tokenizer(), 1)  # type: ignore[arg-type]
    for text in ("plain", 'quo"te\n', "日本 👋", "\u2028"):
        frame = reply.text_frame(0, text).decode()
        assert frame.startswith("data: ") and frame.endswith("\n\n")
        assert json.loads(frame[6:]) == reply.chunk(0, {"content": text})


def test_old_and_new_path_say_the_same_words(served):
    body = {"messages": HELLO, "seed": 1}
    old = served.client.post("/chat/completions", json=body).json()
    new = served.client.post("/v1/chat/completions", json=body).json()
    assert old["choices"] == new["choices"] and old["usage"] == new["usage"]
    assert isinstance(served.client, httpx.Client)
