"""Every HTTP request counted, timed, traced and logged, without touching what it says.

Pure ASGI: messages pass through as they are, so a stream stays a stream. One line of log for each
request, at its end, with all there is to know; probes are logged only when they fail.
Called by serve/. Read: ObserveHTTP -> _ended -> route_of.
"""

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from nanochat.observe.generation import Generation, Observer
from nanochat.observe.request_context import RequestContext, current, read_context
from nanochat.observe.tracing import SERVER, Span, Value

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

QUIET = {"/livez", "/readyz", "/startupz", "/health", "/metrics", "/stats"}  # asked all the time
CLIENT_LEFT = 499  # nginx's number for a client that left before the answer began

logger = logging.getLogger(__name__)


class ObserveHTTP:
    """Middleware around an ASGI app. Adds X-Request-ID to every answer."""

    def __init__(self, app: App, observer: Observer) -> None:
        self.app, self.observer = app, observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        context = read_context(scope["headers"])
        token = current.set(context)
        started, status = time.monotonic(), CLIENT_LEFT

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = (b"x-request-id", context.request_id.encode())
                message["headers"] = [*message.get("headers", ()), own]
            await send(message)

        failure = ""
        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:  # answered by whoever is around us; here it is only noted
            status, failure = 500, type(error).__name__
            raise
        finally:
            self._ended(scope, context, started, status, failure)
            current.reset(token)

    def _ended(
        self, scope: Scope, context: RequestContext, started: float, status: int, failure: str
    ) -> None:
        ended, route = time.monotonic(), route_of(scope)
        self.observer.metrics.http.ended(route, scope["method"], status, ended - started)
        for generation in context.generations:
            generation.delivered(context)
        if status >= 500:
            failure = failure or str(status)
        if self.observer.tracer is not None and context.sampled:
            span = http_span(scope, route, context, (started, ended), status, failure)
            self.observer.tracer.record(span)
        level = logging.ERROR if failure else logging.INFO
        if (route not in QUIET or failure) and logger.isEnabledFor(level):
            fields: dict[str, Any] = {
                "event": "request",
                "method": scope["method"],
                "route": route,
                "status": status,
                "duration_ms": round(1e3 * (ended - started), 3),
            }
            if context.generations:
                fields |= answers_fields(context.generations)
            if failure:
                fields.setdefault("error_type", failure)
            logger.log(level, "request answered", extra={"fields": fields})


def answers_fields(generations: list[Generation]) -> dict[str, Any]:
    """Log fields of a request's answers: those of the first, tokens and cost of all together."""
    first, *others = [generation.log_fields() for generation in generations]
    for other in others:
        for name in ("completion_tokens", "cost_usd"):
            if name in other:
                first[name] = first.get(name, 0) + other[name]
        first["finish_reason"] += "," + other["finish_reason"]
    return first


def http_span(
    scope: Scope,
    route: str,
    context: RequestContext,
    interval: tuple[float, float],
    status: int,
    failure: str,
) -> Span:
    """The request as a span of OpenTelemetry's HTTP conventions."""
    attributes: dict[str, Value] = {
        "http.request.method": scope["method"],
        "http.route": route,
        "http.response.status_code": status,
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
        "nanochat.request_id": context.request_id,
    }
    name, ids = f"{scope['method']} {route}", (context.trace_id, context.span_id, context.parent_id)
    return Span(name, *ids, *interval, SERVER, attributes, failure)


def route_of(scope: Scope) -> str:
    """The template that matched, such as /v1/models/{model}: a raw path would be without bound."""
    route = scope.get("route")
    if route is not None:
        return str(route.path)
    # A mounted app, such as the page's files, leaves only the root it was mounted at.
    return str(scope.get("root_path") or "unmatched")
