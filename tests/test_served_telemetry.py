"""What operators see of the real server: metrics that add up, traces, logs without secrets; and a
full disk or a missing collector harms no request."""

import json
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict

import httpx
import pytest
from observed import Collector, samples
from scripted_chat import scripted_engine
from served_chat import serving
from tiny_models import byte_tokenizer, lively_model

from nanochat.checkpoint import save_checkpoint
from nanochat.paths import checkpoints_dir, tokenizer_dir

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


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`nanochat chat-web` with a small random model, as a list of words."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    model, tokenizer = lively_model(sharpness=1.0), byte_tokenizer()
    meta = {"model": asdict(model.config), "tokenizer": tokenizer.fingerprint()}
    tokenizer.save(tokenizer_dir())
    save_checkpoint(checkpoints_dir("sft", "d3"), 1, model.state_dict(), {}, meta)
    return [sys.executable, "-m", "scripts.chat_web", "--port", "0"]


def ask_three_times(command: list[str]) -> tuple[dict[str, float], str, int]:
    """(metrics, what went to stderr, exit code) of a real server that answers three requests."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout and process.stderr
    address = re.search(r"http://\S+", process.stdout.readline())
    assert address, process.stderr.read()
    body = {"messages": [{"role": "user", "content": SECRET}], "seed": 7, "max_tokens": 8}
    with httpx.Client(base_url=address[0], timeout=300) as client:
        for _ in range(3):
            assert client.post("/chat/completions", json=body).status_code == 200
        seen = metrics(client)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    return seen, errors, process.returncode


@pytest.mark.slow
def test_a_full_disk_and_a_missing_collector_harm_no_request(command):
    flags = ["--log", "/dev/full", "--otlp-endpoint", "http://127.0.0.1:9"]
    seen, errors, code = ask_three_times([*command, *flags])
    assert code == 0 and "Traceback" not in errors
    assert seen["http_requests_total"] == 3 and seen["request_success_total"] == 3
    assert seen["log_lines_lost_total"] >= 1 and seen["spans_sent_total"] == 0


@pytest.mark.slow
def test_the_log_of_the_server_is_json_and_holds_no_prompt(command):
    seen, errors, code = ask_three_times([*command, "--log", "stderr"])
    assert code == 0 and seen["log_lines_lost_total"] == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    asked = [line for line in lines if line.get("route") == "/chat/completions"]
    assert len(asked) == 3 and len({line["request_id"] for line in asked}) == 3
    assert all(line["completion_tokens"] == 8 for line in asked)
    assert "swordfish" not in errors
