"""What operators see of the real server: metrics that add up, traces, logs without secrets. That a
full disk or a missing collector harms no request is in test_served_faults.py."""

import json
import re
from contextlib import ExitStack

import httpx
import pytest
from observed import Collector, samples
from scripted_chat import scripted_engine
from served_chat import save_tiny_model, serving, spawned

SECRET = "the password is swordfish"


def metrics(client: httpx.Client) -> dict[str, float]:
    """Samples by name without prefix, those of one name added up."""
    found: dict[str, float] = {}
    for (name, _), number in samples(client.get("/metrics").content).items():
        short = name.removeprefix("nanochat_")
        found[short] = found.get(short, 0.0) + number
    return found


def test_the_metrics_of_the_server_add_up_to_what_it_answered():
    with serving(scripted_engine(), usd_per_hour=3600.0) as served:
        usages = [served.ask(text).json()["usage"] for text in ("Hello", "Emoji")]
        last = json.loads(served.events("Hello")[-2])
        seen = metrics(served.client)
        page = served.client.get("/metrics").text
    written = sum(usage["completion_tokens"] for usage in usages)
    written += last["usage"]["completion_tokens"]
    read = sum(usage["prompt_tokens"] for usage in [*usages, last["usage"]])
    assert (seen["prompt_tokens_total"], seen["generation_tokens_total"]) == (read, written)
    assert seen["request_success_total"] == seen["time_to_first_token_seconds_count"] == 3
    assert seen["http_requests_total"] == 3
    for gauge in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert seen[gauge] == 0, gauge
    assert seen["cost_usd_total"] > 0
    assert 'model_name="nanochat-scripted"' in page


def test_a_client_that_leaves_is_counted_as_an_abort_and_leaves_no_gauge_behind():
    with serving(scripted_engine(delay_s=0.01)) as served:
        with served.half_asked("Count", stream=True) as wire:
            assert wire.recv(100)
        served.until(running=0, waiting=0, cancelled=1)
        page = samples(served.client.get("/metrics").content)
    aborted = frozenset({("finished_reason", "abort")})
    assert page["nanochat_request_success_total", aborted] == 1
    assert page["nanochat_num_requests_running", frozenset()] == 0


def test_a_request_is_traced_from_its_queue_to_its_last_byte():
    caller = f"00-{'c' * 32}-{'d' * 16}-01"
    body = {"messages": [{"role": "user", "content": "Hello"}], "seed": 7}
    headers = {"traceparent": caller, "X-Request-ID": "mine"}
    with ExitStack() as stack:
        collector = stack.enter_context(Collector())
        served = stack.enter_context(serving(scripted_engine(), otlp_endpoint=collector.address))
        answer = served.client.post("/chat/completions", json=body, headers=headers)
    assert answer.headers["x-request-id"] == "mine"
    usage = answer.json()["usage"]
    spans = {span.name: span for span in collector.spans if span.trace_id.hex() == "c" * 32}
    inside = ["queue", "prefill", "decode", "detokenise"]
    assert {"POST /chat/completions", "chat nanochat-scripted", *inside} == set(spans)
    about = {pair.key: pair.value for pair in spans["chat nanochat-scripted"].attributes}
    assert about["gen_ai.usage.output_tokens"].int_value == usage["completion_tokens"]
    assert about["gen_ai.usage.input_tokens"].int_value == usage["prompt_tokens"]
    assert about["gen_ai.request.seed"].int_value == 7
    assert "Hello" not in str(collector.spans)


def test_every_answer_of_the_server_names_its_request():
    with serving(scripted_engine()) as served:
        for path in ("/livez", "/metrics", "/no/such/path", "/"):
            assert re.fullmatch("[0-9a-f]{32}", served.client.get(path).headers["x-request-id"])
        refused = served.client.post("/chat/completions", content=b"{")
        assert refused.status_code == 400 or refused.status_code == 422
        assert "x-request-id" in refused.headers


@pytest.mark.slow
def test_the_log_of_the_server_is_json_and_holds_no_prompt(tmp_path):
    save_tiny_model(tmp_path)
    with spawned(tmp_path) as server:
        for _ in range(3):
            assert server.ask(SECRET, seed=7, max_tokens=8).status_code == 200
        assert metrics(server.client)["log_lines_lost_total"] == 0
        assert server.stop() == 0
    errors = server.log.read_text()
    lines = [json.loads(line) for line in errors.splitlines()]
    asked = [line for line in lines if line.get("route") == "/chat/completions"]
    assert len(asked) == 3 and len({line["request_id"] for line in asked}) == 3
    assert all(line["completion_tokens"] == 8 for line in asked)
    assert "swordfish" not in errors
