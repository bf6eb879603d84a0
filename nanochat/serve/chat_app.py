"""The chat server as an ASGI app: the page, OpenAI's API, probes and metrics around one engine.

It may face the internet: it never runs code that a client sent. The engine lives in its own thread
(engine_thread.py), so a handler only ever waits.
Called by scripts/chat_web.py and the tests. Read: create_app -> add_routes -> add_middleware ->
answer_refusal. Not covered: TLS; put a proxy in front before you open it to strangers.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from nanochat.engine import Engine
from nanochat.observe.middleware import ObserveHTTP
from nanochat.scheduler import SchedulerSettings
from nanochat.serve import openai_api, probes
from nanochat.serve.access import LOCAL_NAMES, Cors, Gate, Rates, is_loopback, read_keys
from nanochat.serve.engine_thread import EngineThread
from nanochat.serve.errors import (
    ApiError,
    NotServed,
    Overloaded,
    ServerFailed,
    explain_validation,
    shown,
)
from nanochat.serve.headers import BodyLimit, SecurityHeaders
from nanochat.serve.settings import ServedModel, ServeSettings
from nanochat.serve.telemetry import metrics_page, new_observer

STATIC = Path(__file__).parent / "static"


def create_app(settings: ServeSettings, engine: Engine, model: ServedModel) -> FastAPI:
    """The whole server around an engine. Its thread starts and stops with the app."""
    plan = SchedulerSettings(
        rows=settings.running_limit,
        read_tokens=settings.read_tokens,
        blocks=settings.kv_blocks,
        turn_tokens=settings.turn_tokens,
    )
    thread = EngineThread(engine, plan, settings.waiting_limit, settings.deadline_s)
    observer = new_observer(settings, model)
    observer.metrics.watch_engine(thread.snapshot)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if observer.tracer is not None:
            observer.tracer.start()
        thread.start()
        yield
        await asyncio.to_thread(thread.stop)
        if observer.tracer is not None:
            await asyncio.to_thread(observer.tracer.close)

    # No /docs page: it would load its scripts from another host.
    app = FastAPI(title="nanochat", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.settings, app.state.model = settings, model
    app.state.engine, app.state.thread, app.state.observer = engine, thread, observer
    app.state.keys = read_keys(Path(settings.api_keys_file)) if settings.api_keys_file else {}
    app.state.rates = Rates(settings.requests_per_minute, settings.tokens_per_minute)
    app.state.started_at, app.state.created = time.monotonic(), int(time.time())
    add_routes(app)
    add_middleware(app, settings)
    return app


def add_routes(app: FastAPI) -> None:
    """Every address the server answers."""
    app.add_api_route("/", page, include_in_schema=False)
    for path, ask in (
        ("/health", probes.health),
        ("/livez", probes.live),
        ("/readyz", probes.ready),
        ("/startupz", probes.live),
        ("/stats", probes.stats),
        ("/metrics", metrics_page),
        ("/v1/models", openai_api.models),
        ("/v1/models/{name}", openai_api.model),
    ):
        app.add_api_route(path, ask, response_model=None)
    for path in ("/v1/chat/completions", "/chat/completions"):
        app.add_api_route(
            path, openai_api.chat_completions, methods=["POST"], response_model=None,
            operation_id=path.strip("/").replace("/", "_"),
        )  # fmt: skip
    app.add_api_route(
        "/v1/completions", openai_api.completions, methods=["POST"], response_model=None
    )
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    for kind in (ApiError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer_refusal)
    app.add_exception_handler(Exception, answer_failure)


def add_middleware(app: FastAPI, settings: ServeSettings) -> None:
    """From the inside out: what is added last meets a request first."""
    hosts: set[str] | None = LOCAL_NAMES | {name.lower() for name in settings.allowed_hosts}
    if not is_loopback(settings.host) and not settings.allowed_hosts:
        hosts = None  # reachable by names that we can't know
    app.add_middleware(BodyLimit, limit_bytes=settings.max_body_bytes, limit_s=settings.upload_s)
    app.add_middleware(
        Gate,
        hosts=hosts,
        keys=app.state.keys,
        rates=app.state.rates,
        refused=app.state.observer.metrics.refused,
        check_room=app.state.thread.check_room,
    )
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(ObserveHTTP, observer=app.state.observer)


async def page() -> FileResponse:
    return FileResponse(STATIC / "index.html")


async def answer_refusal(request: Request, error: Exception) -> JSONResponse:
    """Every refusal in one shape."""
    if isinstance(error, RequestValidationError):
        error = explain_validation(error.errors())
    if isinstance(error, HTTPException):
        error = NotServed(
            f"{error.detail} ({shown(request.method)} {shown(request.url.path)})", error.status_code
        )
    assert isinstance(error, ApiError), "only these three are registered"
    if isinstance(error, Overloaded):
        request.app.state.observer.metrics.refused(error.code or "overloaded")
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())


async def answer_failure(request: Request, error: Exception) -> JSONResponse:
    """Whatever else was raised: the web server logs it, and the client learns that we failed."""
    failed = ServerFailed("the server failed while it answered; try again, or see its log")
    return JSONResponse(failed.body(), status_code=failed.status)


def open_to_strangers(settings: ServeSettings) -> str | None:
    """A warning for an address that others can reach, served without keys."""
    if is_loopback(settings.host) or settings.api_keys_file:
        return None
    return (
        f"warning: {settings.host} can be reached by others, and anyone may use the model: "
        "make keys with `nanochat api-key NAME` and pass --api-keys-file"
    )
