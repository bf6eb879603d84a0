"""Traces: what happened when, as OpenTelemetry spans sent to a collector by a thread of its own.

A span is a named interval with a parent; together the spans of a request show where its time went.
They go out as OTLP/JSON, the published wire format, so any collector or tracing service takes them;
no SDK is needed for that, and making a span costs a request about a microsecond. A collector that
is slow or down costs spans, which are counted, and never a request.
Called by middleware.py and genai.py. Read: Span -> Tracer -> otlp_json.
Not covered: sampling of our own; a caller's decision in traceparent is honoured.
"""

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

INTERNAL, SERVER = 1, 2  # OTLP's numbers for the kind of a span
OK_UNSET, ERROR = 0, 2  # and for its status
BATCH_SPANS, CAPACITY_SPANS = 512, 8192
RETRYABLE = {408, 429, 502, 503, 504}  # as OTLP/HTTP's specification has it
TIMEOUT_S, LONGEST_PAUSE_S = 5.0, 30.0

logger = logging.getLogger(__name__)
Value = str | bool | int | float | tuple[str, ...]
quote = lru_cache(1024)(json.dumps)  # of strings: most are the same from span to span


# @learn:production.tracing
@dataclass(slots=True)
class Span:
    """An interval; times are seconds of time.monotonic(), ids are hex."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: float
    end: float
    kind: int = INTERNAL
    attributes: dict[str, Value] = field(default_factory=dict)
    error: str = ""  # what kind of failure it ended in, or ""


class Tracer:
    """Takes finished spans and sends them in batches, from start() to close()."""

    def __init__(self, endpoint: str, service: Mapping[str, str], interval_s: float = 2.0) -> None:
        """`endpoint` is the collector's address, such as http://localhost:4318."""
        self.url = endpoint.rstrip("/") + "/v1/traces"
        self.service, self.interval_s = dict(service), interval_s
        self.spans: deque[Span] = deque()
        self.sent = self.dropped = 0
        self.failing = False  # the last attempt failed; said once, not every two seconds
        self.closing = False
        self.wake = threading.Event()
        self.thread = threading.Thread(target=self._run, name="span-exporter", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def record(self, *spans: Span) -> None:
        """Keep for sending; the newest are dropped while the queue is full. Never blocks."""
        for span in spans:
            if len(self.spans) >= CAPACITY_SPANS:
                self.dropped += 1
            else:
                self.spans.append(span)
        if len(self.spans) >= BATCH_SPANS and not self.failing:
            self.wake.set()

    def close(self, within_s: float = 1.0) -> None:
        """One last attempt to send what is there."""
        self.closing = True
        self.wake.set()
        if self.thread.is_alive():
            self.thread.join(within_s)

    def _run(self) -> None:
        pause_s = self.interval_s
        while True:
            closing = self.closing
            self.wake.wait(pause_s)
            self.wake.clear()
            self.failing = not self._send_all()
            if closing or self.closing:
                return
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S) if self.failing else self.interval_s

    def _send_all(self) -> bool:
        """Send batch after batch; False when the collector can't take more for now.

        What is less than a batch waits for the next time, or a busy server would send its spans by
        ones and twos, at a millisecond each. At the end all of it goes.
        """
        first = True
        while self.spans and (first or self.closing or len(self.spans) >= BATCH_SPANS):
            first = False
            batch = [self.spans[i] for i in range(min(BATCH_SPANS, len(self.spans)))]
            trouble, retry = self._send(batch)
            if trouble and not self.failing:
                logger.warning("spans are not sent", extra={"fields": {"reason": trouble}})
            if retry:
                return False
            for _ in batch:
                self.spans.popleft()
            if trouble:
                self.dropped += len(batch)
            else:
                self.sent += len(batch)
        return True

    def _send(self, batch: Sequence[Span]) -> tuple[str, bool]:
        """(what went wrong or "", whether the same batch may succeed later)."""
        body = otlp_json(batch, self.service).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url, body, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                return "", False
        except urllib.error.HTTPError as error:
            return f"the collector answered {error.code}", error.code in RETRYABLE
        except OSError as error:
            return f"no collector answers at {self.url}: {error}", True


def otlp_json(
    spans: Sequence[Span],
    service: Mapping[str, str],
    clocks: Callable[[], tuple[int, int]] = lambda: (time.time_ns(), time.monotonic_ns()),
) -> str:
    """Spans as an ExportTraceServiceRequest in OTLP's JSON encoding.

    `service` holds the resource's attributes: service.name and so on. Intervals were measured by
    the monotonic clock, which no time server can set back; here they become times of day.
    Written as text piece by piece: building dicts for a general encoder took ten times as long,
    and the requests share the processor with this thread.
    """
    now, monotonic_now = clocks()
    shift = now - monotonic_now
    encoded = ",".join(encode_span(span, shift) for span in spans)
    scope = f'{{"name":"nanochat.observe","version":{quote(service.get("service.version", ""))}}}'
    return (
        f'{{"resourceSpans":[{{"resource":{{"attributes":{encode_attributes(service)}}},'
        f'"scopeSpans":[{{"scope":{scope},"spans":[{encoded}]}}]}}]}}'
    )


def encode_span(span: Span, shift: int) -> str:
    """`shift` turns nanoseconds of the monotonic clock into nanoseconds since 1970."""
    attributes = span.attributes | {"error.type": span.error} if span.error else span.attributes
    return (
        f'{{"traceId":"{span.trace_id}","spanId":"{span.span_id}",'
        f'"parentSpanId":"{span.parent_id}","name":{quote(span.name)},"kind":{span.kind},'
        f'"startTimeUnixNano":"{round(span.start * 1e9) + shift}",'
        f'"endTimeUnixNano":"{round(span.end * 1e9) + shift}",'
        f'"attributes":{encode_attributes(attributes)},'
        f'"status":{{"code":{ERROR if span.error else OK_UNSET}}}}}'
    )


def encode_attributes(attributes: Mapping[str, Value]) -> str:
    return f"[{','.join(map(encode_attribute, attributes.keys(), attributes.values()))}]"


@lru_cache(2048, typed=True)  # most are the same from span to span; True is not 1 here
def encode_attribute(key: str, value: Value) -> str:
    """
    >>> encode_attribute("gen_ai.request.seed", 7)
    '{"key":"gen_ai.request.seed","value":{"intValue":"7"}}'
    """
    return f'{{"key":{quote(key)},"value":{encode_value(value)}}}'


def encode_value(value: Value) -> str:
    """A value as OTLP/JSON writes it, by type."""
    if isinstance(value, str):
        return f'{{"stringValue":{quote(value)}}}'
    if isinstance(value, bool):  # before int: True is one
        return f'{{"boolValue":{"true" if value else "false"}}}'
    if isinstance(value, int):
        return f'{{"intValue":"{value}"}}'  # 64 bits don't fit a JSON number
    if isinstance(value, float):
        return f'{{"doubleValue":{json.dumps(value)}}}'
    return f'{{"arrayValue":{{"values":[{",".join(map(encode_value, value))}]}}}}'
