"""Metrics, cost, logs and the middleware: right numbers, bounded labels, no secrets, no harm."""

import asyncio
import doctest
import importlib
import json
import logging
import os
import pkgutil
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from observed import SECRET, drive, new_observer, observed_app, samples, value

import nanochat.observe
from nanochat.observe import logs, machine
from nanochat.observe.cost import CostMeter
from nanochat.observe.logs import LineWriter, start_logging


@pytest.fixture
def log_file(tmp_path):
    """Our log goes to a file for the time of a test; yields a function that reads it."""
    loggers = [logging.getLogger(name) for name in ("nanochat", "uvicorn")]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    writer = start_logging(str(tmp_path / "log" / "server.jsonl"))

    def read() -> list[dict]:
        writer.close()
        text = (tmp_path / "log" / "server.jsonl").read_text("utf-8")
        return [json.loads(line) for line in text.splitlines()]

    yield read
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def until_written(writer: LineWriter) -> None:
    while not writer.lines.empty():
        time.sleep(0.001)
    writer.close()


def test_the_examples_in_the_docstrings_are_true():
    seen = 0
    for module in pkgutil.iter_modules(nanochat.observe.__path__):
        result = doctest.testmod(importlib.import_module(f"nanochat.observe.{module.name}"))
        assert result.failed == 0
        seen += result.attempted
    assert seen > 10


# --- requests ---


def header(messages: list[dict], name: bytes) -> list[bytes]:
    return [value for key, value in messages[0]["headers"] if key == name]


def test_a_well_formed_request_id_comes_back():
    said = drive(observed_app(new_observer()), "/chat", headers=[(b"x-request-id", b"a.B-9_")])
    assert header(said, b"x-request-id") == [b"a.B-9_"]


@pytest.mark.parametrize("bad", [b"", b"a b", b"x" * 129, b"a\r\nb", "ä".encode(), b"a\n"])
def test_any_other_request_id_is_replaced_by_a_fresh_one(bad):
    app = observed_app(new_observer())
    said = [drive(app, "/chat", headers=[(b"x-request-id", bad)]) for _ in range(2)]
    one, two = (header(messages, b"x-request-id")[0] for messages in said)
    assert one != two and len(one) == 32 and bad not in (one, two)


def test_requests_are_counted_by_template_method_and_status_and_nothing_without_bound():
    observer = new_observer()
    app = observed_app(observer)
    drive(app, "/chat", "POST")
    for number in range(50):
        drive(app, f"/secret/{number}", f"METHOD{number}")
    drive(app, "/wait")
    assert value(observer, "http_requests_total", route="/chat", method="POST", status="200") == 1
    missed = {"route": "unmatched", "method": "OTHER", "status": "404"}
    assert value(observer, "http_requests_total", **missed) == 50
    left = {"route": "unmatched", "method": "GET", "status": "499"}
    assert value(observer, "http_requests_total", **left) == 1
    page, _ = observer.metrics.render()
    assert b"METHOD1" not in page and b"secret" not in page


def test_a_failure_is_counted_as_500_and_passed_on():
    observer = new_observer()
    with pytest.raises(ZeroDivisionError):
        drive(observed_app(observer), "/break")
    failed = {"route": "unmatched", "method": "GET", "status": "500"}
    assert value(observer, "http_requests_total", **failed) == 1


def test_messages_pass_through_one_by_one_and_unchanged():
    said = drive(observed_app(new_observer()), "/chat")
    assert [message["type"] for message in said] == ["http.response.start", "http.response.body"]
    assert said[1] == {"type": "http.response.body", "body": SECRET.encode()}


def test_what_is_not_http_is_left_alone():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    wrapped = nanochat.observe.middleware.ObserveHTTP(app, new_observer())
    asyncio.run(wrapped({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]


# --- answers ---


def test_an_answer_fills_the_series_of_its_whole_life():
    observer = new_observer()
    answer = observer.begin(prompt_tokens=10, max_tokens=64)
    answer.scheduled(cached_tokens=4)
    answer.token()
    answer.preempted()
    answer.scheduled()
    for _ in range(3):
        answer.token()
    answer.end("length")
    answer.end("error")  # a second end changes nothing
    counts = {
        "prompt_tokens_total": 10,
        "generation_tokens_total": 4,
        "prompt_tokens_cached_total": 4,
        "prefix_cache_queries_total": 10,
        "prefix_cache_hits_total": 4,
        "num_preemptions_total": 1,
        "time_to_first_token_seconds_count": 1,
        "inter_token_latency_seconds_count": 3,
        "request_time_per_output_token_seconds_count": 1,
        "e2e_request_latency_seconds_count": 1,
        "request_queue_time_seconds_count": 1,
        "request_prefill_time_seconds_count": 1,
        "request_decode_time_seconds_count": 1,
        "request_prefill_kv_computed_tokens_sum": 6,
        "request_generation_tokens_sum": 4,
        "request_num_preemptions_sum": 1,
    }
    assert {name: value(observer, name) for name in counts} == counts
    ended = {r: value(observer, "request_success_total", finished_reason=r) for r in ENDS}
    assert ended == {"stop": 0, "length": 1, "abort": 0, "error": 0}


ENDS = ("stop", "length", "abort", "error")


def test_an_answer_cancelled_in_the_queue_ends_without_tokens():
    observer = new_observer(usd_per_hour=3600)
    answer = observer.begin(prompt_tokens=10, max_tokens=64)
    answer.end("abort")
    assert value(observer, "prompt_tokens_total") == 0
    assert value(observer, "request_success_total", finished_reason="abort") == 1
    assert value(observer, "e2e_request_latency_seconds_count") == 1
    assert answer.cost_usd == 0 and "ttft_ms" not in answer.log_fields()


def test_scores_that_are_no_numbers_are_counted_apart():
    observer = new_observer()
    observer.begin(1, 1).end("error", "nan_logits")
    observer.begin(1, 1).end("error", "engine_failed")
    assert value(observer, "corrupted_requests_total") == 1


steps = st.lists(st.tuples(st.floats(0, 9), st.integers(0, 5)), max_size=40)


@given(steps)
def test_the_shares_of_all_answers_add_up_to_what_the_busy_machine_cost(steps):
    now = 0.0
    meter = CostMeter(usd_per_hour=36.0, clock=lambda: now)
    running: list[float] = []
    paid = 0.0
    for seconds, action in steps:
        now += seconds
        if action < 3 or not running:
            running.append(meter.join())
        else:
            paid += meter.leave(running.pop(action % len(running)))
    now += 1.0
    paid += sum(meter.leave(joined) for joined in running)
    totals = meter.totals()
    assert paid == pytest.approx(totals["busy"], abs=1e-12)
    assert totals["busy"] + totals["idle"] == pytest.approx(now * 0.01)


# --- the page ---


def full_page() -> bytes:
    observer = new_observer(usd_per_hour=1.2)
    machine.watch_machine(observer.metrics)
    observer.metrics.refused("queue_full")
    observer.metrics.watch_count("log_lines_lost", "Lines", lambda: 0)
    drive(observed_app(observer), "/chat")
    return observer.metrics.render()[0]


WANTED = """
num_requests_running num_requests_waiting kv_cache_usage_perc prompt_tokens_total
generation_tokens_total request_success_total admission_rejections_total cost_usd_total build_info
time_to_first_token_seconds_bucket inter_token_latency_seconds_bucket
e2e_request_latency_seconds_bucket
"""


def test_the_page_carries_vllms_names_and_the_machine():
    seen = samples(full_page())
    names = {name for name, _ in seen}
    for name in WANTED.split():
        assert f"nanochat_{name}" in names
    assert seen["process_resident_memory_bytes", frozenset()] > 10e6
    assert seen["process_cpu_seconds_total", frozenset()] > 0
    for histogram in ("time_to_first_token", "inter_token_latency", "e2e_request_latency"):
        bounds = {
            float(dict(labels)["le"])
            for name, labels in seen
            if name == f"nanochat_{histogram}_seconds_bucket"
        }
        assert sum(bound < 0.1 for bound in bounds) >= 7  # a small model's answers take these
        assert {2.5, 10, 40} < bounds  # and vLLM's own, which its dashboards ask for


def promtool() -> str:
    beside = Path(sys.executable).parent / "promtool"
    found = str(beside) if beside.exists() else shutil.which("promtool")
    assert found, "no promtool here: run dev/promtool.sh, then this test again"
    return found


@pytest.mark.slow
def test_promtool_finds_nothing_to_say_about_the_page():
    check = [promtool(), "check", "metrics"]
    good = subprocess.run(check, input=full_page(), capture_output=True)
    assert (good.returncode, good.stdout, good.stderr) == (0, b"", b"")
    bad = full_page().replace(b"nanochat_build_info", b"nanochat_buildInfo")
    assert subprocess.run(check, input=bad, capture_output=True).returncode == 3


class NoSuchReading(Exception):
    """What NVIDIA's library raises."""


def test_gpu_series_come_from_nvidias_library_and_a_missing_reading_is_left_out(monkeypatch):
    def no_power(card):
        raise NoSuchReading

    fake = types.SimpleNamespace(
        NVMLError=NoSuchReading,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetUtilizationRates=lambda card: types.SimpleNamespace(gpu=50 * card),
        nvmlDeviceGetMemoryInfo=lambda card: types.SimpleNamespace(used=7, total=80),
        nvmlDeviceGetPowerUsage=no_power,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    observer = new_observer()
    machine.watch_machine(observer.metrics)
    assert value(observer, "gpu_utilization_ratio", gpu="1") == 0.5
    assert value(observer, "gpu_memory_used_bytes", gpu="0") == 7
    assert "gpu_power_watts{" not in observer.metrics.render()[0].decode()


def test_without_a_gpu_there_are_no_gpu_series(monkeypatch):
    def no_driver():
        raise NoSuchReading

    broken = types.SimpleNamespace(NVMLError=NoSuchReading, nvmlInit=no_driver)
    for library in (None, broken):
        monkeypatch.setitem(sys.modules, "pynvml", library)
        observer = new_observer()
        machine.watch_machine(observer.metrics)
        assert "gpu" not in observer.metrics.render()[0].decode()


# --- logs ---


def test_a_request_is_one_line_of_json_with_its_ids_and_without_its_texts(log_file):
    app = observed_app(new_observer(usd_per_hour=5.0))
    trace = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
    sent = [(b"x-request-id", b"mine"), (b"traceparent", trace), (b"authorization", b"sk-KEY")]
    drive(app, "/chat", "POST", sent)
    drive(app, "/livez")  # a probe is no news
    lines = log_file()
    assert len(lines) == 1
    line = lines[0]
    assert line["request_id"] == "mine" and line["trace_id"] == "a" * 32
    assert line["severity"] == "INFO" and line["event"] == "request"
    assert line["timestamp"].endswith("Z") and line["message"] == "request answered"
    wanted = {"route": "/chat", "method": "POST", "status": 200, "model": "tiny"}
    wanted |= {"prompt_tokens": 5, "completion_tokens": 2, "cached_tokens": 2}
    assert wanted.items() <= line.items() and line["finish_reason"] == "stop"
    assert {"queue_ms", "ttft_ms", "duration_ms", "cost_usd"} <= line.keys()
    assert SECRET not in str(line) and "KEY" not in str(line)


def test_a_failure_is_logged_as_an_error_without_what_it_said(log_file):
    with pytest.raises(ZeroDivisionError):
        drive(observed_app(new_observer()), "/break")
    (line,) = log_file()
    assert line["severity"] == "ERROR" and line["error_type"] == "ZeroDivisionError"
    assert SECRET not in str(line)


def test_line_breaks_and_halves_of_characters_stay_inside_their_line(tmp_path):
    """In a process of its own: pytest keeps what is logged and can not hand on half a character."""
    path = tmp_path / "server.jsonl"
    code = (
        "import logging, sys; from nanochat.observe.logs import start_logging; "
        "writer = start_logging(sys.argv[1]); fields = {'a': chr(13) + chr(10) + '{'}; "
        "text = 'two' + chr(10) + 'lines ' + chr(0xD83D); "
        "logging.getLogger('nanochat.x').info(text, extra={'fields': fields}); writer.close()"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
    (line,) = (json.loads(line) for line in path.read_text("utf-8").splitlines())
    assert line["a"] == "\r\n{" and line["message"].startswith("two\nlines")


def test_fields_that_are_no_json_cost_their_line_and_nothing_else(log_file):
    circle: dict = {}
    circle["again"] = circle
    logging.getLogger("nanochat.x").info("round", extra={"fields": circle})
    logging.getLogger("nanochat.x").info("fine", extra={"fields": {"path": Path("a")}})
    (line,) = log_file()
    assert line["message"] == "fine" and line["path"] == "a"


def test_a_full_disk_loses_lines_and_counts_them_and_nothing_else_happens():
    writer = LineWriter("/dev/full")
    logger = logging.getLogger("nanochat.full")
    logger.handlers[:], logger.propagate = [writer], False
    logger.setLevel("INFO")
    for _ in range(300):
        logger.info("hello")
    until_written(writer)
    assert writer.lost == 300


def test_a_disk_that_fills_up_and_is_freed_leaves_whole_lines(tmp_path, monkeypatch):
    writer = LineWriter(str(tmp_path / "log"))
    real_write, room = os.write, [25]

    def small_disk(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        written = real_write(descriptor, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(logs.os, "write", small_disk)
    writer._write(["0123456789"] * 4)  # 44 bytes for 25: two lines and a piece
    room[0] = 1000
    writer._write(["after"])
    assert (tmp_path / "log").read_text() == "0123456789\n0123456789\n012\nafter\n"
    assert writer.lost == 2
    writer.close()


def test_a_reader_that_stopped_reading_blocks_nobody():
    read_end, write_end = os.pipe()
    writer = LineWriter("stderr", capacity=50)
    os.dup2(write_end, writer.descriptor)
    for number in range(5000):  # far more than a pipe holds
        record = logging.LogRecord("n", 20, "", 0, f"{number:0200}", None, None)
        writer.emit(record)
    assert writer.lost > 0
    os.close(write_end)
    os.set_blocking(read_end, False)
    while writer.thread.is_alive() and not writer.lines.empty():
        try:
            os.read(read_end, 1 << 20)
        except BlockingIOError:
            time.sleep(0.001)
    os.close(read_end)
    writer.close()
