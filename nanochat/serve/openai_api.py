"""The routes that people's tools already speak: /v1/chat/completions, /v1/completions, /v1/models.

/chat/completions is the same with usage beside the last chunk. A handler only ever waits: texts
become tokens in a worker thread, tokens become answers in the engine's thread.
Called by chat_app.py. Read: chat_completions -> completions -> ask -> ReplyStream -> whole_reply.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from nanochat.sampling import SEED_LIMIT, Sampling
from nanochat.serve.engine_thread import Ticket, Tickets, Wish
from nanochat.serve.errors import ApiError, UnknownModel
from nanochat.serve.prompts import raw_prompts, read_prompt
from nanochat.serve.replies import ChatReply, Reply, TextReply, sse
from nanochat.serve.schemas import Asked, ChatRequest, CompletionRequest
from nanochat.serve.settings import ServeSettings
from nanochat.serve.stops import Redactor, StopWords, Watch, chain

DIALS = ("temperature", "top_k", "top_p", "max_tokens")  # a request may turn them


async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer the last user message: as server-sent events when `stream`, else in one object."""
    state = request.app.state
    if body.max_completion_tokens is not None:
        body = body.model_copy(update={"max_tokens": body.max_completion_tokens})
    sampling = checked(body, state)
    ids, dropped = await asyncio.to_thread(
        read_prompt, body, state.engine, state.settings, sampling.max_tokens
    )
    tickets = ask(body, request, [ids], sampling, body.top(), "chat")
    reply = ChatReply(state.model.name, tickets, state.engine.tokenizer, len(ids), dropped)
    return await answer(body, request, reply)


async def completions(body: CompletionRequest, request: Request) -> Response:
    """Go on from a text as it stands, without the form of a conversation."""
    state = request.app.state
    sampling = checked(body, state)
    prompts = await asyncio.to_thread(raw_prompts, body, state.engine, state.settings)
    ids = [prompt for prompt, _ in prompts]
    tickets = ask(body, request, ids, sampling, body.top(), "text_completion")
    prompt_tokens = sum(map(len, ids))
    reply = TextReply(state.model.name, tickets, state.engine.tokenizer, prompt_tokens)
    return await answer(body, request, reply)


async def models(request: Request) -> dict[str, Any]:
    """The one model that is served."""
    return {"object": "list", "data": [about(request.app.state)]}


async def model(name: str, request: Request) -> dict[str, Any]:
    """The same by its name. Raises UnknownModel."""
    check_model(name, request.app.state)
    return about(request.app.state)


def about(state: Any) -> dict[str, Any]:
    """The model as /v1/models describes it."""
    return {
        "id": state.model.name,
        "object": "model",
        "created": state.created,
        "owned_by": "nanochat",
        "context": state.engine.context,
    }


def check_model(name: str | None, state: Any) -> None:
    """Refuse a model that is not the one served."""
    if name not in (None, state.model.name):
        raise UnknownModel(
            f"no model {name!r:.80} here: leave `model` out or ask for {state.model.name!r}",
            param="model",
        )


def checked(body: Asked, state: Any) -> Sampling:
    """The request's wishes, and the server's defaults for the rest; refused before any work."""
    settings: ServeSettings = state.settings
    check_model(body.model, state)
    most = min(settings.max_choices, settings.running_limit + settings.waiting_limit)
    if (body.n or 1) > most:
        raise ApiError(f"n is {body.n}, limit {most}: ask for fewer", param="n")
    state.thread.check_room(body.n or 1)
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


def ask(
    body: Asked,
    request: Request,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    top: int | None,
    operation: str,
) -> Tickets:
    """Queue every answer to every prompt; the i-th of a prompt is drawn with seed + i."""
    state = request.app.state
    count = body.n or 1
    answers, limit = len(prompts) * count, state.settings.running_limit
    limit += state.settings.waiting_limit
    if answers > limit:  # it would not even fit into a server with nothing else to do
        raise ApiError(
            f"{len(prompts)} prompts with n {count} ask for {answers} answers, limit {limit}: "
            "send fewer prompts in a request, or ask for fewer answers to each",
            param="prompt",
        )
    wishes, listeners = [], []
    fields = {name: getattr(body, name) for name in ("seed", "n", "stream", *DIALS)}
    fields["stop_words"] = len(body.stop_words()) or None  # their texts are the client's own
    for prompt in prompts:
        for i in range(count):
            watches: list[Watch] = [StopWords(body.stop_words())] if body.stop else []
            if state.settings.redact_secrets:
                watches.append(Redactor())
            drawn = replace(sampling, seed=(sampling.seed + i) % SEED_LIMIT)
            listener = state.observer.begin(
                len(prompt), sampling.max_tokens, operation=operation, wishes=fields
            )
            listeners.append(listener)
            wishes.append(Wish(prompt, drawn, listener, chain(watches), top))
    try:
        tickets = state.thread.submit(wishes)
    except ApiError:
        for listener in listeners:
            listener.end("abort")  # it was announced as queued
        raise
    state.observer.metrics.asked(len(wishes))
    return tickets


async def answer(body: Asked, request: Request, reply: Reply) -> Response:
    """Stream the reply, or wait and send it whole."""
    old_path = not request.url.path.startswith("/v1/")
    usage = old_path or (body.stream_options is not None and body.stream_options.include_usage)
    if body.stream:
        limit_s = request.app.state.settings.deadline_s + request.app.state.settings.slow_reader_s
        return ReplyStream(reply, request, usage, old_path, limit_s)
    return await whole_reply(reply, request)


async def stream_reply(reply: Reply, usage: bool, with_last: bool) -> AsyncIterator[bytes]:
    """Server-sent events; exactly one of a finish and an error comes before [DONE].

    With `usage` the numbers come at the end: beside the last chunk, or in one more.
    """
    for chunk in reply.opening():
        yield sse(chunk)
    try:
        async with aclosing(reply.tickets.written()) as tokens:
            async for ticket, written in tokens:
                for event in reply.events(ticket, written):
                    yield event
                if written.event.finish_reason:
                    last = reply.last_chunk(reply.choices[ticket.index])
                    complete = all(choice.stop_detail for choice in reply.choices)
                    yield sse(last | (reply.summary() if with_last and complete else {}))
        if usage and not with_last:
            yield sse(reply.usage_chunk())
    except ApiError as error:
        yield sse(error.body())
    yield sse("[DONE]")


class ReplyStream(StreamingResponse):
    """A stream whose end, for whatever reason, ends the work behind it."""

    def __init__(
        self, reply: Reply, request: Request, usage: bool, with_last: bool, limit_s: float
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # no proxy may hold it
        events = stream_reply(reply, usage, with_last)
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.reply, self.request, self.limit_s = reply, request, limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self.limit_s):  # a client that does not read, or too slowly
                await super().__call__(scope, receive, send)
        except TimeoutError:
            pass  # the connection is closed in the middle: the client sees that it is cut
        finally:
            self.reply.tickets.cancel()
            spend(self.reply, self.request)


async def whole_reply(reply: Reply, request: Request) -> Response:
    """Wait for the end of the answer, or for the client to leave, whichever comes first."""

    async def collect() -> None:
        ticket: Ticket
        async for ticket, written in reply.tickets.written():
            reply.collect(ticket, written)

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
        reply.tickets.cancel()
        work.cancel()
        leaving.cancel()
        spend(reply, request)


def spend(reply: Reply, request: Request) -> None:
    """Charge the tokens of the prompts and of what was written to whoever asked."""
    used = reply.prompt_tokens + reply.written()
    request.app.state.rates.spend(request.scope["state"]["who"], used)
