"""Traces on request: one at a time, in a thread of its own, kept for a while.

Called by bridge_app.py. Read: ModelHolder (loads the newest model when first asked) -> TraceStore
-> TraceDesk.make -> answer_of.
"""

import asyncio
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.checkpoint import find_checkpoint, git_commit, load_model
from nanochat.engine_trace import Traced, TraceRequest, pieces, trace_prompt
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.serve.bridge_schemas import TraceBody
from nanochat.serve.bridge_settings import BridgeSettings
from nanochat.serve.errors import ApiError, Overloaded, TooLarge
from nanochat.tokenizer import Tokenizer
from nanochat.trace import Edit

Json = dict[str, Any]
Loader = Callable[[], tuple[GPT, Tokenizer]]


class NoModel(ApiError):
    """Nothing has been trained yet."""

    status = 503
    type = "not_ready_error"
    code = "model_missing"


class TraceGone(ApiError):
    """Deleted, forgotten, or never there."""

    status = 404
    code = "trace_gone"


class TraceBusy(Overloaded):
    """One trace at a time."""

    status = 429
    code = "trace_running"


class ModelHolder:
    """The newest model of a stage, loaded when first needed and again when a newer one is saved."""

    def __init__(self, settings: BridgeSettings, load: Loader | None = None) -> None:
        self.settings, self.load = settings, load
        self.found: tuple[GPT, Tokenizer] | None = None
        self.path: Path | None = None

    def get(self) -> tuple[GPT, Tokenizer]:
        """The newest model of the tag, loaded when first asked for."""
        try:
            if self.load is not None:
                self.found = self.found or self.load()
                return self.found
            path = find_checkpoint(self.settings.stage, self.settings.tag)
            if self.found is None or path != self.path:
                model, tokenizer, _ = load_model(self.settings.stage, self.settings.tag)
                self.found, self.path = (model, tokenizer), path
            return self.found
        except UserError as error:
            raise NoModel(f"no model to look into: {error}") from error


@dataclass(frozen=True)
class Kept:
    """A trace in memory."""

    answer: Json
    payload: bytes
    traced: Traced
    made_at: float  # time.monotonic()


class TraceStore:
    """The last few traces by id; used in the event loop only."""

    def __init__(self, limit: int, ttl_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self.limit, self.ttl_s, self.now = limit, ttl_s, now
        self.kept: OrderedDict[str, Kept] = OrderedDict()

    def add(self, name: str, kept: Kept) -> None:
        """Keep a trace; the oldest goes when there are too many."""
        self.forget_old()
        self.kept[name] = kept
        while len(self.kept) > self.limit:
            self.kept.popitem(last=False)

    def forget_old(self) -> None:
        for name, kept in list(self.kept.items()):
            if self.now() - kept.made_at > self.ttl_s:
                del self.kept[name]

    def get(self, name: str) -> Kept:
        """A kept trace. Raises TraceGone."""
        self.forget_old()
        if name not in self.kept:
            raise TraceGone(
                f"no trace {name!r:.80}: it was deleted, or {self.ttl_s / 60:g} minutes have "
                "passed, or newer ones took its place; make it again with POST /trace"
            )
        return self.kept[name]

    def delete(self, name: str) -> None:
        self.get(name)
        del self.kept[name]


class TraceDesk:
    """Takes requests, refuses a second one while the first runs."""

    def __init__(self, settings: BridgeSettings, load: Loader | None = None) -> None:
        self.settings, self.models = settings, ModelHolder(settings, load)
        self.store = TraceStore(settings.kept_traces, settings.trace_ttl_s)
        self.busy = threading.Lock()
        self.code = git_commit()

    def request_of(self, body: TraceBody, tokenizer: Tokenizer) -> TraceRequest:
        """Checks what the model need not be asked for. Raises TooLarge or ApiError."""
        s = self.settings
        if (body.prompt is None) == (body.token_ids is None):
            raise ApiError("send either prompt or token_ids", param="prompt")
        if body.prompt is not None and len(body.prompt) > s.max_prompt_characters:
            raise TooLarge(
                f"the prompt has {len(body.prompt):,} characters, limit "
                f"{s.max_prompt_characters:,}: shorten it",
                param="prompt",
            )
        if body.max_bytes > s.max_trace_bytes:
            raise TooLarge(
                f"max_bytes is {body.max_bytes:,}, limit {s.max_trace_bytes:,}: ask for less",
                param="max_bytes",
            )
        if body.token_ids is not None:
            ids = body.token_ids
        elif body.chat:
            turns = [{"role": "user", "content": body.prompt}]
            ids = tokenizer.render_for_completion({"messages": turns})
        else:
            ids = [tokenizer.special("bos"), *tokenizer.encode(body.prompt or "")]
        return TraceRequest(
            tuple(ids),
            max_new_tokens=body.max_new_tokens,
            seed=body.seed,
            temperature=body.temperature,
            names=tuple(body.hooks),
            level=body.level,
            positions=None if body.positions is None else tuple(body.positions),
            topk=body.topk,
            dtype=body.dtype,
            max_bytes=body.max_bytes,
            edits=tuple(edit_of(edit.model_dump()) for edit in body.edits),
        )

    async def make(self, body: TraceBody) -> AsyncIterator[Json]:
        """Events: one for each step, then {"event": "done", "trace": answer}. Raises refusals."""
        if not self.busy.acquire(blocking=False):
            raise TraceBusy("another trace is being made: try again in a moment", 1)
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Json | None] = asyncio.Queue()

        def tell(event: Json | None) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, event)

        task = asyncio.create_task(asyncio.to_thread(self._make, body, tell))
        try:
            while (event := await queue.get()) is not None:
                yield event
            name, kept = await task
            self.store.add(name, kept)
            yield {"event": "done", "trace": kept.answer}
        finally:
            task.add_done_callback(lambda done: self.busy.release())

    def _make(self, body: TraceBody, tell: Callable[[Json | None], None]) -> tuple[str, Kept]:
        """In a thread: load, trace, describe."""
        try:
            model, tokenizer = self.models.get()
            request = self.request_of(body, tokenizer)

            def on_step(step: int, token: int, chances: list[tuple[int, float]]) -> None:
                piece = pieces(tokenizer, [token])[0]
                tell({"event": "step", "step": step, "token": piece})

            traced = trace_prompt(model, request, {"code": self.code}, on_step)
            name = secrets.token_urlsafe(12)
            answer = answer_of(name, traced, tokenizer)
            return name, Kept(answer, traced.trace.payload, traced, time.monotonic())
        except ApiError:
            raise
        except UserError as error:  # an unknown hook, a prompt too long, a budget too small
            raise ApiError(str(error)) from error
        finally:
            tell(None)


def edit_of(fields: Json) -> Edit:
    lists = {key: None if fields[key] is None else tuple(fields[key]) for key in AXES}
    return Edit(fields["name"], fields["op"], fields["value"], **lists)


AXES = ("positions", "heads", "keys")


def answer_of(name: str, traced: Traced, tokenizer: Tokenizer) -> Json:
    """The body of a finished trace."""
    manifest = traced.trace.manifest
    warnings = []
    cut = sum(entry["truncated"] is not None for entry in manifest["tensors"])
    if cut:
        warnings.append(f"{cut} of {len(manifest['tensors'])} tensors were cut to the byte budget")
    following = [
        [piece | {"chance": chance} for (_, chance), piece in zip(row, shown, strict=True)]
        for row in traced.chances
        for shown in [pieces(tokenizer, [token for token, _ in row])]
    ]
    return {
        "trace_id": name,
        "manifest": manifest,
        "tokens": pieces(tokenizer, traced.tokens),
        "next_tokens": following,
        "warnings": warnings,
    }
