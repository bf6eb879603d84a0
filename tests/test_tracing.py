"""Spans reach a real collector in OpenTelemetry's own format, and a collector that is down or
slow costs spans and nothing else."""

import json
import logging
import time
from itertools import pairwise

import pytest
from observed import SECRET, Collector, drive, new_observer, observed_app, value

from nanochat.observe import tracing
from nanochat.observe.middleware import ObserveHTTP
from nanochat.observe.tracing import Span, Tracer, otlp_json

SERVICE = {"service.name": "nanochat", "service.version": "1"}
CALLER = b"00-" + b"a" * 32 + b"-" + b"b" * 16


def attributes(span) -> dict:
    found = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        content = getattr(pair.value, kind)
        found[pair.key] = [v.string_value for v in content.values] if kind[0] == "a" else content
    return found


def traced(path: str, *headers, status: int = 200):
    """One request with a collector listening: (its spans by name, the observer)."""
    with Collector(status) as collector:
        tracer = Tracer(collector.address, SERVICE)
        observer = new_observer(tracer)
        tracer.start()
        drive(observed_app(observer), path, "POST", headers)
        tracer.close(30)
    return {span.name: span for span in collector.spans}, observer


def test_one_request_is_one_trace_from_queue_to_detokenise():
    spans, observer = traced("/chat", (b"traceparent", CALLER + b"-01"))
    phases = ["queue", "prefill", "decode", "detokenise"]
    assert set(spans) == {"POST /chat", "chat tiny", *phases}
    http, chat = spans["POST /chat"], spans["chat tiny"]
    assert {span.trace_id.hex() for span in spans.values()} == {"a" * 32}
    assert http.parent_span_id.hex() == "b" * 16 and http.kind == http.SPAN_KIND_SERVER
    assert chat.parent_span_id == http.span_id and chat.kind == chat.SPAN_KIND_INTERNAL
    assert len({span.span_id for span in spans.values()}) == 6
    inside = [spans[name] for name in phases]
    assert all(span.parent_span_id == chat.span_id for span in inside)
    assert inside[0].start_time_unix_nano == chat.start_time_unix_nano
    for one, two in pairwise(inside):  # no gap and no overlap
        assert one.end_time_unix_nano == two.start_time_unix_nano
    assert inside[-1].end_time_unix_nano == chat.end_time_unix_nano
    assert http.start_time_unix_nano <= chat.start_time_unix_nano
    assert abs(chat.end_time_unix_nano - time.time_ns()) < 600e9  # times of day, not since boot
    assert value(observer, "spans_sent_total") == 6


def test_the_spans_carry_the_conventions_names_and_no_texts():
    spans, _ = traced("/chat", (b"x-request-id", b"mine"))
    about = attributes(spans["chat tiny"])
    wanted = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "nanochat",
        "gen_ai.response.model": "tiny",
        "gen_ai.request.seed": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.response.finish_reasons": ["stop"],
    }
    assert wanted.items() <= about.items()
    assert "gen_ai.request.top_k" not in about  # the request did not ask for it
    http = attributes(spans["POST /chat"])
    assert http["http.route"] == "/chat" and http["http.response.status_code"] == 200
    assert http["nanochat.request_id"] == "mine"
    assert SECRET not in str(spans)


def test_a_failed_request_is_a_failed_span():
    with Collector() as collector:
        tracer = Tracer(collector.address, SERVICE)
        tracer.start()
        with pytest.raises(ZeroDivisionError):
            drive(observed_app(new_observer(tracer)), "/break")
        tracer.close(30)
    (span,) = collector.spans
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "ZeroDivisionError"
    assert {pair.key: pair.value.string_value for pair in collector.resources[0].attributes} == (
        SERVICE
    )


def test_a_trace_the_caller_does_not_record_is_not_recorded_here():
    spans, observer = traced("/chat", (b"traceparent", CALLER + b"-00"))
    assert spans == {} and value(observer, "spans_sent_total") == 0


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        CALLER,
        CALLER + b"-01-more",
        b"ff" + CALLER[2:] + b"-01",
        b"00-" + b"0" * 32 + b"-" + b"b" * 16 + b"-01",
        b"00-" + b"a" * 32 + b"-" + b"0" * 16 + b"-01",
        (CALLER + b"-01").upper(),
        CALLER + b"-01\r\n",
    ],
)
def test_a_malformed_traceparent_begins_a_trace_of_its_own(bad):
    tracer = Tracer("http://127.0.0.1:9", SERVICE)
    drive(observed_app(new_observer(tracer)), "/livez", headers=[(b"traceparent", bad)])
    (span,) = tracer.spans
    assert span.trace_id not in ("a" * 32, "0" * 32) and span.parent_id == ""


def test_an_answer_that_outlives_its_request_is_traced_once_when_it_ends():
    tracer = Tracer("http://127.0.0.1:9", SERVICE)
    observer = new_observer(tracer)
    answers = []

    async def leaves_early(scope, receive, send):
        answers.append(observer.begin(3, 9))

    drive(ObserveHTTP(leaves_early, observer), "/chat")
    assert [span.name for span in tracer.spans] == ["GET unmatched"]
    answers[0].end("abort")
    names = [span.name for span in tracer.spans]
    assert names == ["GET unmatched", "chat tiny", "queue"]  # it never got beyond the queue


def span_number(number: int) -> Span:
    return Span(f"s{number}", "a" * 32, "b" * 16, "", 0.0, 1.0)


def test_without_a_collector_requests_are_answered_and_the_trouble_is_told_once(caplog):
    tracer = Tracer("http://127.0.0.1:9", SERVICE, interval_s=0.001)  # nobody listens there
    observer = new_observer(tracer)
    tracer.start()
    with caplog.at_level(logging.WARNING, "nanochat.observe.tracing"):
        for _ in range(20):
            assert drive(observed_app(observer), "/chat")[0]["status"] == 200
            time.sleep(0.002)
        tracer.close(30)
    told = [record for record in caplog.records if record.name == "nanochat.observe.tracing"]
    assert len(told) == 1 and "no collector answers" in str(told[0].fields)
    assert tracer.sent == 0 and len(tracer.spans) == 120


def test_a_collector_that_comes_back_gets_what_waited():
    tracer = Tracer("http://127.0.0.1:9", SERVICE)
    tracer.record(*map(span_number, range(3)))
    assert tracer._send_all() is False
    with Collector() as collector:
        tracer.url = collector.address + "/v1/traces"
        assert tracer._send_all() is True
    assert [span.name for span in collector.spans] == ["s0", "s1", "s2"]
    assert tracer.sent == 3 and tracer.dropped == 0


def test_what_a_collector_refuses_for_good_is_dropped_and_counted():
    with Collector(status=400) as collector:
        tracer = Tracer(collector.address, SERVICE)
        tracer.record(*map(span_number, range(3)))
        assert tracer._send_all() is True
    assert tracer.dropped == 3 and not tracer.spans


def test_waiting_spans_are_bounded_and_the_lost_ones_counted(monkeypatch):
    monkeypatch.setattr(tracing, "CAPACITY_SPANS", 5)
    tracer = Tracer("http://127.0.0.1:9", SERVICE)
    tracer.record(*map(span_number, range(8)))
    assert len(tracer.spans) == 5 and tracer.dropped == 3


def test_spans_that_come_while_others_are_sent_go_together_next_time_and_all_of_them_at_the_end(
    monkeypatch,
):
    monkeypatch.setattr(tracing, "BATCH_SPANS", 4)
    tracer, batches = Tracer("http://127.0.0.1:9", SERVICE), []

    def send(batch):
        batches.append(len(batch))
        if len(batches) < 4:
            tracer.record(span_number(0))
        return "", False

    monkeypatch.setattr(tracer, "_send", send)
    tracer.record(*map(span_number, range(9)))
    assert tracer._send_all() and batches == [4, 4] and len(tracer.spans) == 3
    tracer.closing = True
    assert tracer._send_all() and batches == [4, 4, 3, 1] and not tracer.spans


def test_intervals_survive_a_clock_that_jumps():
    clocks = iter([(5_000_000_000, 2_000_000_000), (99_000_000_000, 2_000_000_000)])
    for base in (3_000_000_000, 97_000_000_000):
        body = json.loads(otlp_json([span_number(0)], SERVICE, lambda: next(clocks)))
        (span,) = body["resourceSpans"][0]["scopeSpans"][0]["spans"]
        assert int(span["startTimeUnixNano"]) == base
        assert int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"]) == 1_000_000_000
