"""What the tests of observability share: a tiny observed app, a collector that listens, a drive.

The collector is a real HTTP server in a thread; it reads spans with OpenTelemetry's own schema.
Used by test_observe.py and test_tracing.py. Read: observer -> app -> drive -> Collector.
"""

import asyncio
import base64
import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from nanochat.observe.cost import CostMeter
from nanochat.observe.generation import Observer
from nanochat.observe.metrics import ServerMetrics
from nanochat.observe.middleware import ObserveHTTP
from nanochat.observe.tracing import Tracer

SECRET = "my sister Anna's secret"


class Route:
    """What a router leaves in the scope."""

    def __init__(self, path: str) -> None:
        self.path = path


def new_observer(tracer: Tracer | None = None, usd_per_hour: float = 0.0) -> Observer:
    metrics = ServerMetrics("tiny", {"version": "1", "python": "3"})
    metrics.watch_engine(lambda: {"running": 0, "waiting": 0, "kv_cache_usage": 0.0})
    return Observer(metrics, CostMeter(usd_per_hour), tracer)


def observed_app(observer: Observer) -> ObserveHTTP:
    """/chat answers with two tokens, /livez with nothing, /break raises, /wait never answers."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path == "/break":
            raise ZeroDivisionError(SECRET)
        if path in ("/chat", "/livez"):
            scope["route"] = Route(path)
        if path == "/wait":
            return  # the client left before anything was sent
        status = 200 if "route" in scope else 404
        await send({"type": "http.response.start", "status": status, "headers": []})
        if path == "/chat":
            answer = observer.begin(5, 16, wishes={"seed": 7, "temperature": 0.5, "top_k": None})
            answer.scheduled(cached_tokens=2)
            answer.token()
            answer.token()
            answer.end("stop")
        await send({"type": "http.response.body", "body": SECRET.encode()})

    return ObserveHTTP(app, observer)


def drive(app: Any, path: str, method: str = "GET", headers: Sequence = ()) -> list[dict]:
    """One request; the messages that came back."""
    said: list[dict] = []

    async def send(message: Any) -> None:
        said.append(message)

    async def receive() -> dict:
        return {"type": "http.request", "body": SECRET.encode()}

    scope = {"type": "http", "path": path, "method": method, "headers": list(headers)}
    asyncio.run(app(scope, receive, send))
    return said


def samples(page: bytes) -> dict[tuple[str, frozenset], float]:
    """Every sample of a /metrics page: (name, labels apart from the model's) -> value."""
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in ("model_name", "engine")}
            found[sample.name, frozenset(labels.items())] = sample.value
    return found


def value(observer: Observer, name: str, **labels: str) -> float:
    page, _ = observer.metrics.render()
    return samples(page)[f"nanochat_{name}", frozenset(labels.items())]


class Collector:
    """Listens on a free port as a context manager; `status` is what it answers."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.spans: list[Any] = []
        self.resources: list[Any] = []
        self.heard = threading.Event()

    def __enter__(self) -> "Collector":
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                assert self.headers["content-type"] == "application/json"
                outer.take(json.loads(body))
                self.send_response(outer.status)
                self.end_headers()
                outer.heard.set()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def take(self, body: dict) -> None:
        """Read with the official schema, which fails on a field that it does not know."""
        if self.status != 200:
            return
        for resource in body["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    # OTLP/JSON writes ids in hex where protobuf's own JSON has base64.
                    for name in ("traceId", "spanId", "parentSpanId"):
                        span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
        request = ParseDict(body, ExportTraceServiceRequest())
        for resource in request.resource_spans:
            self.resources.append(resource.resource)
            for scope in resource.scope_spans:
                self.spans += scope.spans
