"""The chat server as an ASGI app: the page, /health, /stats and POST /chat/completions.

It may face the internet: it never runs code that a client sent. The engine lives in its own thread
(engine_thread.py), so a handler only ever waits.
Called by scripts/chat_web.py and the tests. Read: create_app -> chat_completions -> stream_reply.
Not covered: keys, rate limits, TLS; put a proxy in front before you open it to strangers.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from nanochat.engine import Engine, Sampling
from nanochat.serve.engine_thread import EngineThread
from nanochat.serve.errors import ApiError, NotServed, UnknownModel, explain_validation
from nanochat.serve.headers import BodyLimit, SecurityHeaders
from nanochat.serve.prompts import read_prompt
from nanochat.serve.replies import Reply, sse
from nanochat.serve.schemas import ChatRequest
from nanochat.serve.settings import ServedModel, ServeSettings

STATIC = Path(__file__).parent / "static"
DIALS = ("temperature", "top_k", "top_p", "max_tokens")  # a request may turn them


def create_app(settings: ServeSettings, engine: Engine, model: ServedModel) -> FastAPI:
    """The whole server around an engine. Its thread starts and stops with the app."""
    thread = EngineThread(engine, settings.running_limit, settings.waiting_limit)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        thread.start()
        yield
        await asyncio.to_thread(thread.stop)

    # No /docs page: it would load its scripts from another host.
    app = FastAPI(
        title="nanochat",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings, app.state.model = settings, model
    app.state.engine, app.state.thread = engine, thread
    app.state.started_at = time.monotonic()
    app.add_api_route("/", page, include_in_schema=False)
    app.add_api_route("/health", health)
    app.add_api_route("/stats", stats)
    app.add_api_route("/chat/completions", chat_completions, methods=["POST"], response_model=None)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(ApiError, answer_refusal)
    app.add_exception_handler(RequestValidationError, answer_refusal)
    app.add_exception_handler(HTTPException, answer_refusal)
    app.add_middleware(BodyLimit, limit_bytes=settings.max_body_bytes)
    app.add_middleware(SecurityHeaders)  # added last, so it is the outermost
    return app


async def page() -> FileResponse:
    return FileResponse(STATIC / "index.html")


async def health(request: Request) -> JSONResponse:
    """200 while the engine's thread lives, 503 when it died: then only a restart helps."""
    state = request.app.state
    ready = state.thread.alive()
    body = {
        "status": "ok" if ready else "engine stopped",
        "ready": ready,
        "model": state.model.name,
    }
    return JSONResponse(body, status_code=200 if ready else 503)


async def stats(request: Request) -> dict[str, Any]:
    """What is served, its limits and defaults, and what it has done so far."""
    state, settings = request.app.state, request.app.state.settings
    limits = ("max_tokens_limit", "max_messages", "max_characters", "max_body_bytes")
    return {
        "model": asdict(state.model) | {"context": state.engine.context},
        "defaults": {name: getattr(settings, name) for name in DIALS},
        "limits": {name: getattr(settings, name) for name in limits},
        "uptime_s": round(time.monotonic() - state.started_at, 1),
        **state.thread.snapshot(),
    }


async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer the last user message: as server-sent events when `stream`, else in one object."""
    state = request.app.state
    if body.model not in (None, state.model.name):
        raise UnknownModel(
            f"no model {body.model!r:.80} here: leave `model` out or ask for {state.model.name!r}",
            param="model",
        )
    wishes = sampling_of(body, state.settings)
    ids, dropped = await asyncio.to_thread(
        read_prompt, body, state.engine, state.settings, wishes.max_tokens
    )
    ticket = state.thread.submit(ids, wishes)
    reply = Reply(state.model.name, ticket, state.engine.tokenizer, dropped)
    if body.stream:
        return ReplyStream(reply)
    return await whole_reply(reply, request)


def sampling_of(body: ChatRequest, settings: ServeSettings) -> Sampling:
    """The request's wishes, and the server's defaults for the rest."""
    chosen = {
        name: getattr(settings if getattr(body, name) is None else body, name) for name in DIALS
    }
    if chosen["max_tokens"] > settings.max_tokens_limit:
        raise ApiError(
            f"max_tokens is {chosen['max_tokens']}, limit {settings.max_tokens_limit}: "
            "ask for less",
            param="max_tokens",
        )
    # An unseeded answer gets a seed all the same, and tells it: any answer can be had again.
    seed = secrets.randbelow(1_000_000) if body.seed is None else body.seed
    return Sampling(**chosen, seed=seed)


async def stream_reply(reply: Reply) -> AsyncIterator[bytes]:
    """Server-sent events; exactly one of a finish chunk and an error comes before [DONE]."""
    yield sse(reply.chunk({"role": "assistant", "content": ""}, dropped_messages=reply.dropped))
    try:
        async for event in reply.ticket.events():
            for delta in reply.deltas(event):
                yield sse(reply.chunk(delta))
        yield sse(reply.chunk({}, reply.finish_reason(), **reply.summary()))
    except ApiError as error:
        yield sse(error.body())
    yield sse("[DONE]")


class ReplyStream(StreamingResponse):
    """A stream whose end, for whatever reason, ends the work behind it."""

    def __init__(self, reply: Reply) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # no proxy may hold it
        super().__init__(stream_reply(reply), media_type="text/event-stream", headers=headers)
        self.ticket = reply.ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.ticket.cancel()


async def whole_reply(reply: Reply, request: Request) -> Response:
    """Wait for the end of the answer, or for the client to leave, whichever comes first."""

    async def collect() -> None:
        async for event in reply.ticket.events():
            reply.deltas(event)

    async def client_left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, leaving = asyncio.create_task(collect()), asyncio.create_task(client_left())
    try:
        await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return Response(status_code=499)  # nobody reads it; nginx's number for this case
        work.result()  # raises what stopped the answer
        return JSONResponse(reply.completion())
    finally:
        reply.ticket.cancel()
        work.cancel()
        leaving.cancel()


async def answer_refusal(request: Request, error: Exception) -> JSONResponse:
    """Every refusal in one shape."""
    if isinstance(error, RequestValidationError):
        error = explain_validation(error.errors())
    if isinstance(error, HTTPException):
        error = NotServed(
            f"{error.detail} ({request.method} {request.url.path})", error.status_code
        )
    assert isinstance(error, ApiError), "only these three are registered"
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())
