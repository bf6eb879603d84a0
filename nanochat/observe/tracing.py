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
from typing import Any

INTERNAL, SERVER = 1, 2  # OTLP's numbers for the kind of a span
OK_UNSET, ERROR = 0, 2  # and for its status
BATCH_SPANS, CAPACITY_SPANS = 512, 8192
RETRYABLE = {408, 429, 502, 503, 504}  # as OTLP/HTTP's specification has it
TIMEOUT_S, LONGEST_PAUSE_S = 5.0, 30.0

logger = logging.getLogger(__name__)
Value = str | bool | int | float | Sequence[str]


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
    attributes: Mapping[str, Value] = field(default_factory=dict)
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

    def close(self, within_s: float = 2.0) -> None:
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
        """Send batch after batch; False when the collector can't take more for now."""
        while self.spans:
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
        body = json.dumps(otlp_json(batch, self.service), separators=(",", ":")).encode()
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
) -> dict[str, Any]:
    """Spans as an ExportTraceServiceRequest in OTLP's JSON encoding.

    `service` holds the resource's attributes: service.name and so on. Intervals were measured by
    the monotonic clock, which no time server can set back; here they become times of day.
    """
    now, monotonic_now = clocks()
    shift = now - monotonic_now

    def moment(seconds: float) -> str:
        return str(round(seconds * 1e9) + shift)

    encoded = []
    for span in spans:
        attributes = dict(span.attributes) | ({"error.type": span.error} if span.error else {})
        encoded.append(
            {
                "traceId": span.trace_id,
                "spanId": span.span_id,
                "parentSpanId": span.parent_id,
                "name": span.name,
                "kind": span.kind,
                "startTimeUnixNano": moment(span.start),
                "endTimeUnixNano": moment(span.end),
                "attributes": encode_attributes(attributes),
                "status": {"code": ERROR if span.error else OK_UNSET},
            }
        )
    scope = {"name": "nanochat.observe", "version": service.get("service.version", "")}
    resource = {"attributes": encode_attributes(service)}
    return {
        "resourceSpans": [
            {"resource": resource, "scopeSpans": [{"scope": scope, "spans": encoded}]}
        ]
    }


def encode_attributes(attributes: Mapping[str, Value]) -> list[dict[str, Any]]:
    """
    >>> encode_attributes({"gen_ai.request.seed": 7})
    [{'key': 'gen_ai.request.seed', 'value': {'intValue': '7'}}]
    """
    return [{"key": key, "value": encode_value(value)} for key, value in attributes.items()]


def encode_value(value: Value) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bool):  # before int: True is one
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}  # 64 bits don't fit a JSON number
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"arrayValue": {"values": [encode_value(item) for item in value]}}
