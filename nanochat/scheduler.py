"""Continuous batching: requests join and leave a running batch between two tokens of the others.

Called by serve/engine_thread.py, which owns the thread; everything here is one plain `step()` after
another. In a step, who left goes; a piece of one waiting prompt is read; every running answer gets
one more token. Each answer comes out token for token as if it had been asked alone (fp32 on a
processor; dev/adr/023): tests compare them under random arrivals, pauses and departures.
Read: Listener -> Request -> Scheduler.step -> _read -> _write -> _end -> _make_way.

Rows of the cache: the running answers in front, after them the one whose prompt is being read.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nanochat.engine import Answer, Engine, TokenEvent
from nanochat.engine_kernel import next_scores, next_tokens, spare_slots, threads_at_rest
from nanochat.gpt import norm
from nanochat.kv_cache import KVCache
from nanochat.kv_cache_blocks import BLOCK, Block, BlockStore


class Listener(Protocol):
    """Who wants to know when what happens to one request; nanochat/observe has one for metrics.

    The request counts as queued when its listener is made. `end` comes exactly once.
    """

    def scheduled(self, cached_tokens: int = 0) -> None: ...  # again after each pause
    def preempted(self) -> None: ...
    def token(self, count: int = 1) -> None: ...
    def end(self, reason: str, error_type: str = "") -> None: ...  # stop, length, abort, error


class Deaf:
    """A listener that ignores everything."""

    def scheduled(self, cached_tokens: int = 0) -> None: ...
    def preempted(self) -> None: ...
    def token(self, count: int = 1) -> None: ...
    def end(self, reason: str, error_type: str = "") -> None: ...


@dataclass(eq=False)
class Request:
    """One answer on its way; only the scheduler's thread touches it, `cancelled` apart."""

    answer: Answer
    listener: Listener
    deadline: float = float("inf")  # on the scheduler's clock, seconds
    top_logprobs: int | None = None  # how many alternatives to report with each token; None: none
    watch: Callable[[TokenEvent], TokenEvent] | None = None  # may hold text back, or end the answer
    cancelled: bool = False  # set by anyone: it goes before the next token
    held: list[Block] | None = None  # while it is set aside
    read: int = 0  # tokens of its prompt that the row holds
    turn: int = 0  # tokens written since its last turn began
    began: float | None = None  # when its first turn did, on the scheduler's clock
    first_at: float | None = None  # when its first token was written, on the same clock
    last_at: float | None = None  # and its newest

    @property
    def tokens(self) -> list[int]:
        return self.answer.prompt + self.answer.tokens


class Chance(NamedTuple):
    """A token and the logarithm of its probability, before temperature and the like."""

    token: int
    logprob: float


class Written(NamedTuple):
    """One new token of a request."""

    request: Request
    event: TokenEvent
    chosen: Chance | None = None  # None: not asked for, or not drawn but forced
    others: Sequence[Chance] = ()  # the likeliest tokens, falling


class Ended(NamedTuple):
    """A request that ended without a last token: cancelled, too late, or its scores broke."""

    request: Request
    why: str  # cancelled | deadline | nan_logits


@dataclass(frozen=True)
class SchedulerSettings:
    """What one step may cost, and what is remembered."""

    rows: int = 16  # answers that are written together
    read_tokens: int = 128  # most prompt tokens read between two tokens of the running answers
    blocks: int = 512  # remembered pieces of BLOCK tokens; 0 remembers nothing
    turn_tokens: int = 512  # after so many tokens an answer makes way for those who wait


# @learn:inference.continuous_batching
class Scheduler:
    """`submit` requests, then call `step` until `idle`."""

    def __init__(
        self, engine: Engine, settings: SchedulerSettings, clock: Callable[[], float] | None = None
    ) -> None:
        model = engine.model
        self.model, self.kernel, self.settings = model, engine.kernel, settings
        self.clock = clock or (lambda: 0.0)
        self.device = next(model.parameters()).device
        self.capacity = engine.context
        made = model.dtype, self.device
        spare = spare_slots(self.kernel)
        self.cache = KVCache(model.config, settings.rows, self.capacity, *made, spare=spare)
        self.store = BlockStore(model.config, settings.blocks, *made)
        # A ring forgets what it overwrites: a piece is saved before the next one pushes it out.
        remembered = min(self.cache.slots) // BLOCK * BLOCK if settings.blocks else 0
        self.piece = min(settings.read_tokens, remembered or settings.read_tokens)
        self.waiting: deque[Request] = deque()
        self.reading: Request | None = None
        self.running: list[Request] = []
        self.news: list[Written | Ended] = []  # of the step that runs, or of the last one

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running and self.reading is None

    @property
    def rows_in_use(self) -> int:
        return len(self.running) + (self.reading is not None)

    def kv_usage(self) -> float:
        """Share of the rows' memory that holds tokens of unfinished answers, 0 to 1."""
        used = sum(self.cache.lengths[: self.rows_in_use])
        return used / (self.settings.rows * self.capacity)

    def submit(self, request: Request) -> None:
        self.waiting.append(request)

    @torch.inference_mode()
    def step(self, meanwhile: Callable[[], None] = lambda: None) -> list[Written | Ended]:
        """At most one piece of prompts, then one token for everyone; what came of it, in order.

        After an exception `news` holds what had come of it until then.
        `meanwhile` is called just before the model computes: what it sets off in other threads
        they can do while this one needs no Python.
        """
        self.news = []
        self._let_go()
        self._make_way()
        room = self.piece
        with threads_at_rest(self.kernel):
            while room > 0 and (self.reading is not None or self._next_reader()):
                meanwhile()
                room -= self._read(room)
            if self.running:
                self._write_all(meanwhile)
        return self.news

    def _write_all(self, meanwhile: Callable[[], None]) -> None:
        last = [[request.answer.tokens[-1]] for request in self.running]
        tokens = torch.tensor(last, device=self.device)  # (B, 1)
        view = self.cache.view(0, len(last))
        meanwhile()
        logits = next_scores(self.model, self.kernel, tokens, view)  # (B, V)
        self._write(self.running, logits)

    def abandon(self) -> None:
        """After an exception: forget everything. Takes no memory, which may be what was short."""
        self.running.clear()
        self.waiting.clear()
        self.reading = None
        self.store.reset()

    # --- who comes and goes ---

    def _let_go(self) -> None:
        now = self.clock()
        everyone = [*self.waiting, *self.running]
        if self.reading is not None:
            everyone.append(self.reading)
        for request in everyone:
            if request.cancelled or request.deadline <= now:
                self._drop(request, "cancelled" if request.cancelled else "deadline")

    def _drop(self, request: Request, why: str) -> None:
        """A request ends without having come to its end."""
        if request in self.running:
            self._leave(request)
        elif request is self.reading:
            self.reading = None
        else:
            self.waiting.remove(request)
            self._unhold(request)
        request.listener.end(*(("abort", "") if why == "cancelled" else ("error", why)))
        self.news.append(Ended(request, why))

    # @learn:inference.preemption
    def _make_way(self) -> None:
        """Nobody waits for ever: with no row free, whoever had the longest turn is set aside.

        Its blocks are held, so it goes on later where it stopped: copied back, not read again.
        """
        if not self.waiting or self.rows_in_use < self.settings.rows:
            return
        request = max(self.running, key=lambda r: r.turn, default=None)
        if request is None or request.turn < self.settings.turn_tokens:
            return
        path = self._remember(request, request.tokens[:-1])  # the last token was not fed yet
        self.store.hold(path)
        request.held, request.turn, request.read = path, 0, 0
        self._leave(request)
        request.listener.preempted()
        self.waiting.append(request)

    def _unhold(self, request: Request) -> None:
        self.store.release(request.held or ())
        request.held = None

    def _leave(self, request: Request) -> None:
        """Give a row back; the last running one moves into the hole, the reader behind them."""
        row, last = self.running.index(request), len(self.running) - 1
        if row != last:
            self.cache.copy_row(last, row)
            self.running[row] = self.running[last]
        self.running.pop()
        if self.reading is not None:
            self.cache.copy_row(last + 1, last)

    # --- reading prompts ---

    def _next_reader(self) -> bool:
        """Give the first of those who wait the row behind the running ones, if there is one."""
        if not self.waiting or len(self.running) == self.settings.rows:
            return False
        request, row = self.waiting.popleft(), len(self.running)
        self.cache.reset(row)
        tokens = request.tokens
        # At least one token is read, or there would be no scores to go on from.
        path = self.store.find(tokens)[: (len(tokens) - 1) // BLOCK]
        if path:
            self.store.restore(path, self.cache, row)
            if self.model.config.smear:  # the next token looks at the one before it
                before = torch.tensor([[tokens[len(path) * BLOCK - 1]]], device=self.device)
                self.cache.last[row] = norm(self.model.embed(before).to(self.model.dtype))[0]
        self._unhold(request)
        request.read = len(path) * BLOCK
        request.began = self.clock() if request.began is None else request.began
        request.listener.scheduled(request.read)
        self.reading = request
        return True

    # @learn:inference.chunked_prefill
    # @def:prefill
    # Reading a prompt: all its positions at once, where an answer is written one by one.
    def _read(self, room: int) -> int:
        """Read a piece of the prompt in front, at most `room` tokens; how many they were.

        With the whole prompt comes its first token.
        """
        request = self.reading
        assert request is not None, "the caller looked"
        tokens, row = request.tokens, len(self.running)
        stop = min(request.read + room, len(tokens))
        piece = torch.tensor([tokens[request.read : stop]], device=self.device)  # (1, T)
        view = self.cache.view(row, row + 1)
        logits = next_scores(self.model, self.kernel, piece, view)  # (1, V)
        used, request.read = stop - request.read, stop
        self._remember(request, tokens[:stop], row)
        if stop == len(tokens):
            self.reading = None
            self.running.append(request)
            self._write([request], logits)
        return used

    def _remember(self, request: Request, tokens: list[int], row: int | None = None) -> list[Block]:
        if not self.settings.blocks:
            return []
        row = self.running.index(request) if row is None else row
        return self.store.save(tokens, self.cache, row)

    # --- writing ---

    def _write(self, requests: Sequence[Request], logits: Tensor) -> None:
        """Give each its next token, the one it must take or one drawn from its scores (B, V)."""
        # Who must take a token rolls no die; only whether the scores are numbers counts then.
        dice = [0.0 if r.answer.waiting else r.answer.dice.random() for r in requests]
        wishes = [request.answer.sampling for request in requests]
        drawn = next_tokens(self.kernel, logits, wishes, dice)
        if None in drawn:
            self.store.clear()  # what these rows saw may have been kept
        for row, (request, token) in enumerate(zip(list(requests), drawn, strict=True)):
            if token is None:
                # A weight of 0 times NaN is NaN: a later tenant's mask would not keep it out.
                self.cache.wipe(self.running.index(request))
                self._drop(request, "nan_logits")
            else:
                self._accept(request, token, logits, row)

    def _accept(self, request: Request, drawn: int, logits: Tensor, row: int) -> None:
        answer = request.answer
        forced = bool(answer.waiting)
        token = answer.waiting.popleft() if forced else drawn
        event = answer.accept(token, forced, self.capacity)
        if request.watch is not None:
            event = request.watch(event)
            answer.finish_reason = event.finish_reason
        request.turn += 1
        request.last_at = self.clock()
        request.first_at = request.last_at if request.first_at is None else request.first_at
        request.listener.token()
        chosen: Chance | None = None
        others: tuple[Chance, ...] = ()
        if request.top_logprobs is not None and not forced:
            chosen, others = chances(logits[row], token, request.top_logprobs)
        if event.finish_reason:
            self._remember(request, request.tokens[:-1])
            self._leave(request)
            request.listener.end("stop" if event.finish_reason == "stop" else "length")
        self.news.append(Written(request, event, chosen, others))


def chances(scores: Tensor, token: int, top: int) -> tuple[Chance, tuple[Chance, ...]]:
    """Scores (V,) -> the chance of `token`, and the `top` likeliest tokens."""
    logs = scores.float().log_softmax(-1)
    best = logs.topk(top) if top else None
    others = () if best is None else zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Chance(token, float(logs[token])), tuple(Chance(*pair) for pair in others)


def held_back(event: TokenEvent, text: str, finished: bool) -> TokenEvent:
    """The event with other text, ended here if `finished`: what a `watch` gives back."""
    reason = "stop" if finished else event.finish_reason
    return replace(event, text=text, finish_reason=reason)
