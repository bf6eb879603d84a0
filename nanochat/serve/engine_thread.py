"""One thread owns the scheduler: requests come in by a bounded queue, tokens go out to the loop.

The event loop never computes, so /livez answers while the model works. The loop is woken once for
all new tokens of a step, when the next one begins to compute: the model needs no Python then, and
only one thread at a time can have it. Whatever happens inside, each request is told exactly one
end: its last token or one error.
Called by chat_app.py. Read: Ticket -> EngineThread.submit -> _run -> _note -> _deliver ->
DrainRate.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nanochat.engine import Engine, Sampling
from nanochat.scheduler import (
    Deaf,
    Ended,
    Listener,
    Request,
    Scheduler,
    SchedulerSettings,
    Written,
)
from nanochat.serve.errors import (
    ApiError,
    EngineFailed,
    NotNumbers,
    Overloaded,
    Stopping,
    TooLate,
)
from nanochat.serve.stops import Watch

logger = logging.getLogger(__name__)
FAILED = "the model failed while answering; try again, or see the server's log"
HANGS = "the model does not move any more; try again later, or see the server's log"
PATIENCE_S = 5.0  # how long after its deadline a request still waits for the thread's word
LAST_STEP_S = 1.0  # how long a step may take that was under way when time was up
STOPPED = "the server is stopping: try again in a moment"


@dataclass(frozen=True)
class Wish:
    """One answer that is asked for."""

    prompt: Sequence[int]
    sampling: Sampling
    listener: Listener | None = None
    watch: Watch | None = None
    top_logprobs: int | None = None


class Ticket:
    """One answer on its way through the thread; its end in the event loop is a shared queue."""

    def __init__(self, index: int, request: Request, queue: "Inbox") -> None:
        self.index, self.request, self.queue = index, request, queue
        self.loop = asyncio.get_running_loop()
        self.submitted_at = time.monotonic()
        self.silent = True  # nothing was written yet

    def send(self, item: Written | ApiError) -> None:
        """In the event loop."""
        self.queue.put_nowait((self, item))


Letters = list[tuple[Ticket, Written | ApiError]]
Inbox = asyncio.Queue[tuple[Ticket, Written | ApiError]]


class Tickets:
    """The answers to one HTTP request, one or several of them."""

    def __init__(self, tickets: list[Ticket], queue: Inbox) -> None:
        self.tickets, self.queue = tickets, queue

    def __iter__(self) -> Any:
        return iter(self.tickets)

    def cancel(self) -> None:
        """Nobody listens any more: the thread drops what is left before the next token."""
        for ticket in self.tickets:
            ticket.request.cancelled = True

    async def written(self) -> AsyncGenerator[tuple[Ticket, Written], None]:
        """Every token of every answer, until each has had its last. Raises what stopped one.

        The thread tells who is too late; should it hang, nobody here waits much longer than that.
        """
        latest = max(self.tickets, key=lambda ticket: ticket.request.deadline)
        within_s = latest.request.deadline - time.monotonic() + PATIENCE_S
        no_word = latest.loop.call_later(within_s, latest.send, TooLate(HANGS))
        left = len(self.tickets)
        try:
            while left:
                ticket, item = await self.queue.get()
                if isinstance(item, ApiError):
                    raise item
                left -= item.event.finish_reason is not None
                yield ticket, item
        finally:
            no_word.cancel()


# @learn:production.backpressure
class DrainRate:
    """How many answers end per second, measured; from it, when a place comes free for a refusal.

    Nobody tells who comes back: a client that comes too early and is refused again holds two
    promises and will take one place. So no more promises count than there are places: when that
    many answers have ended, all that stand in the way today have, and a flood delays nobody more.
    """

    WINDOW_S = 30.0
    LONGEST_S = 60

    def __init__(self, places: int) -> None:
        """`places`: how many answers may be written or wait at once."""
        self.places = places
        self.ends: deque[float] = deque()
        self.promises: deque[float] = deque()  # when those who were refused may come back

    def ended(self, now: float) -> None:
        self.ends.append(now)
        while self.ends[0] < now - self.WINDOW_S:
            self.ends.popleft()

    def retry_after_s(self, now: float) -> int:
        """Each refused client is promised a place of its own, not all the same one."""
        while self.promises and self.promises[0] <= now:
            self.promises.popleft()
        recent = [end for end in self.ends if end >= now - self.WINDOW_S]
        per_s = len(recent) / max(now - recent[0], 1.0) if recent else 1.0
        place = min(len(self.promises) + 1, self.places)
        wait_s = min(max(1, math.ceil(place / per_s)), self.LONGEST_S)
        if len(self.promises) < self.places:
            self.promises.append(now + wait_s)
        return wait_s


class EngineThread:
    """Starts with `start()`, takes requests by `submit()`, ends with `stop()`."""

    def __init__(
        self, engine: Engine, plan: SchedulerSettings, waiting_limit: int, deadline_s: float
    ) -> None:
        self.engine, self.waiting_limit, self.deadline_s = engine, waiting_limit, deadline_s
        self.scheduler = Scheduler(engine, plan, time.monotonic)
        self.rows = plan.rows
        self.arriving: list[Request] = []
        self.open: dict[Request, Ticket] = {}  # not ended yet
        self.letters: Letters = []  # what the event loop has still to be told
        self.counts = dict.fromkeys(("finished", "cancelled", "failed", "refused"), 0)
        self.tokens = {"prompt": 0, "generated": 0}
        self.rate = DrainRate(plan.rows + waiting_limit)
        self.stepped_at = time.monotonic()  # end of the last step, or of the last rest
        self.dying = False  # the thread has left its loop and only says goodbye
        self.stop_at: float | None = None  # time.monotonic() after which nothing runs any more
        self.changed = threading.Condition()  # guards all of the above but the scheduler
        self.thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def alive(self) -> bool:
        return self.thread.is_alive() and not self.dying

    @property
    def draining(self) -> bool:
        return self.stop_at is not None

    def stop(self, drain_s: float = 0.0) -> None:
        """Refuse new requests, end waiting ones now and running ones within `drain_s` seconds.

        A step that is still computing LAST_STEP_S later is not waited for: the process may end.
        """
        with self.changed:
            if self.stop_at is None:
                self.stop_at = time.monotonic() + drain_s
            late_at = self.stop_at + LAST_STEP_S
            self.changed.notify()
        if self.thread.is_alive():
            self.thread.join(max(0.0, late_at - time.monotonic()))
        if self.thread.is_alive():
            with self.changed:
                hanging, self.open = self.open, {}
            for ticket in hanging.values():
                self._post(ticket.loop, [(ticket, Stopping(STOPPED, 1))])

    def check_room(self, count: int = 1) -> None:
        """Raises Overloaded or Stopping when so many answers can't be taken now."""
        with self.changed:
            if self.stop_at is not None or not self.alive():
                raise Stopping(STOPPED, 1)
            if len(self.open) + count > self.rows + self.waiting_limit:
                self.counts["refused"] += 1
                wait_s = self.rate.retry_after_s(time.monotonic())
                raise Overloaded(
                    f"{len(self.open)} answers are being written or wait, and the limit is "
                    f"{self.rows + self.waiting_limit}: try again in about {wait_s} s",
                    wait_s,
                )

    def submit(self, wishes: Sequence[Wish]) -> Tickets:
        """Queue answers, all or none; called in the event loop. Raises Overloaded or Stopping."""
        with self.changed:
            self.check_room(len(wishes))
            queue: Inbox = asyncio.Queue()
            tickets = []
            for index, wish in enumerate(wishes):
                request = Request(
                    self.engine.answer(wish.prompt, wish.sampling),
                    wish.listener or Deaf(),
                    time.monotonic() + self.deadline_s,
                    wish.top_logprobs,
                    wish.watch,
                )
                tickets.append(Ticket(index, request, queue))
                self.open[request] = tickets[-1]
                self.arriving.append(request)
            self.changed.notify()
            return Tickets(tickets, queue)

    def snapshot(self) -> dict[str, Any]:
        """Numbers for /stats and the gauges, all from one moment."""
        with self.changed:
            running = min(self.scheduler.rows_in_use, len(self.open))
            return {
                "running": running,
                "waiting": len(self.open) - running,
                "running_limit": self.rows,
                "waiting_limit": self.waiting_limit,
                "kv_cache_usage": self.scheduler.kv_usage(),
                "kv_blocks_held": self.scheduler.store.held,
                "kv_blocks_remembered": self.scheduler.store.kept,
                "requests": dict(self.counts),
                "tokens": dict(self.tokens),
            }

    # --- inside the thread ---

    def _run(self) -> None:
        try:
            while self._admit():
                try:
                    self.scheduler.step(self._deliver)
                    self._note()
                except Exception:  # the step of all rows broke, and the scheduler's state with it
                    logger.exception("the engine failed")
                    self._give_up()
                self.stepped_at = time.monotonic()
        finally:  # also when the thread is torn down: nobody may wait for ever
            self.dying = True
            self.scheduler.abandon()
            self._end_all(self.open)

    def _admit(self) -> bool:
        """Sleep while there is nothing to do; False when the thread should end."""
        with self.changed:
            while self.scheduler.idle and not self.arriving and self.stop_at is None:
                self.changed.wait()
                self.stepped_at = time.monotonic()
            for request in self.arriving:
                self.scheduler.submit(request)
            self.arriving.clear()
            if self.stop_at is None:
                return True
            if time.monotonic() >= self.stop_at:
                return False
            # Who has not begun could not end in time; someone set aside has begun.
            late = [r for r in self.scheduler.waiting if not r.answer.tokens]
            for request in late:
                self.scheduler.waiting.remove(request)
                request.listener.end("abort")
                self._end(request, "failed", Stopping(STOPPED, 1))
            return not self.scheduler.idle

    def _note(self) -> None:
        """Count what is new and write it down for those who asked."""
        now, news = time.monotonic(), self.scheduler.news
        with self.changed:
            while news:
                item = news.pop(0)  # once, whatever happens
                ticket = self.open[item.request]
                letter: Written | ApiError
                if isinstance(item, Ended):
                    self.open.pop(item.request)
                    self.counts["cancelled" if item.why == "cancelled" else "failed"] += 1
                    self.rate.ended(now)
                    letter = self._why(item.why)
                else:
                    letter = item
                    if ticket.silent:
                        ticket.silent = False
                        self.tokens["prompt"] += len(item.request.answer.prompt)
                    self.tokens["generated"] += 1
                    if item.event.finish_reason:
                        self.open.pop(item.request)
                        self.counts["finished"] += 1
                        self.rate.ended(now)
                self.letters.append((ticket, letter))
        if self.scheduler.idle:  # no next step would do it
            self._deliver()

    def _why(self, why: str) -> ApiError:
        if why == "deadline":
            return TooLate(
                f"the answer was not complete after {self.deadline_s:g} s, the limit of this "
                "server: ask for fewer tokens, or when it is less busy"
            )
        if why == "nan_logits":
            return NotNumbers("the model's scores are not numbers: its checkpoint is damaged")
        return ApiError("the request was cancelled")

    def _deliver(self) -> None:
        """Tell each request what is new: one wake-up of its event loop for all of it."""
        letters, self.letters = self.letters, []
        by_loop: dict[asyncio.AbstractEventLoop, Letters] = {}
        for letter in letters:
            by_loop.setdefault(letter[0].loop, []).append(letter)
        for loop, its in by_loop.items():
            self._post(loop, its)

    def _post(self, loop: asyncio.AbstractEventLoop, letters: Letters) -> None:
        def deliver() -> None:
            for ticket, letter in letters:
                ticket.send(letter)

        try:
            loop.call_soon_threadsafe(deliver)
        except RuntimeError:  # the loop is closed: the server is gone, and so is the client
            for ticket, _ in letters:
                ticket.request.cancelled = True

    def _end(self, request: Request, how: str, error: ApiError) -> None:
        with self.changed:
            self.letters.append((self.open.pop(request), error))
            self.counts[how] += 1
        self._deliver()  # after what was written before

    def _give_up(self) -> None:
        """After a broken step: who ended in it has ended, who was at work fails, who only just came
        is none the wiser."""
        with suppress(Exception):  # what broke may be what is told here
            self._note()
        with self.changed:
            lost = [request for request in self.open if request not in self.arriving]
            self.scheduler.abandon()
        self._end_all(lost)

    def _end_all(self, requests: Iterable[Request]) -> None:
        """One error each. What one of them does to its listener harms no other."""
        error = Stopping(STOPPED, 1) if self.draining else EngineFailed(FAILED)
        for request in list(requests):
            self._end(request, "failed", error)
            with suppress(Exception):
                request.listener.end("error", "engine_failed")
