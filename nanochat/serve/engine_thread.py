"""One thread owns the engine: requests come in by a bounded queue, tokens go out to the event loop.

The event loop never computes, so /health answers while the model works. Up to `running_limit`
answers are written together, one forward pass for all; `waiting_limit` more may wait. A request
joins and leaves between two tokens of the others.
Called by chat_app.py. Read: Ticket -> EngineThread.submit -> _run -> _write -> _end.
Not covered: reading a long prompt in pieces; the others wait for that one pass.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from nanochat.engine import Answer, Batch, Engine, Sampling, TokenEvent
from nanochat.serve.errors import EngineFailed, Overloaded, Stopping

logger = logging.getLogger(__name__)


class Ticket:
    """One request on its way through the thread; `events()` is its end in the event loop."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer  # the thread's; the loop reads only its prompt and sampling
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[TokenEvent | Exception] = asyncio.Queue()
        self.cancelled = False  # set by the loop, read by the thread between two tokens
        self.submitted_at = time.monotonic()
        self.started_at = self.submitted_at  # when its turn came

    def cancel(self) -> None:
        """Nobody listens any more: the thread drops the request before the next token."""
        self.cancelled = True

    async def events(self) -> AsyncIterator[TokenEvent]:
        """Token events; the last has a finish_reason. Raises what stopped the answer instead."""
        while True:
            item = await self.queue.get()
            if isinstance(item, Exception):
                raise item
            yield item
            if item.finish_reason:
                return

    def send(self, item: TokenEvent | Exception) -> None:
        """From the thread to the event loop."""
        try:
            self.loop.call_soon_threadsafe(self.queue.put_nowait, item)
        except RuntimeError:  # the loop is closed: the server is gone, and so is the client
            self.cancelled = True


class EngineThread:
    """Starts with `start()`, takes requests by `submit()`, ends with `stop()`."""

    def __init__(self, engine: Engine, running_limit: int, waiting_limit: int) -> None:
        self.engine = engine
        self.running_limit, self.waiting_limit = running_limit, waiting_limit
        self.waiting: deque[Ticket] = deque()
        self.running: dict[Answer, Ticket] = {}
        self.counts = dict.fromkeys(("finished", "cancelled", "failed", "refused"), 0)
        self.tokens = {"prompt": 0, "generated": 0}
        self.mean_answer_s = 1.0  # a moving mean; a guess until the first answer ends
        self.stop_at: float | None = None  # time.monotonic() after which nothing runs any more
        self.changed = threading.Condition()  # guards all of the above
        self.thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def alive(self) -> bool:
        return self.thread.is_alive()

    def stop(self, drain_s: float = 0.0) -> None:
        """Refuse new requests, end waiting ones now and running ones within `drain_s` seconds."""
        with self.changed:
            if self.stop_at is None:
                self.stop_at = time.monotonic() + drain_s
            self.changed.notify()
        if self.alive():
            self.thread.join()

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Ticket:
        """Queue a request; called in the event loop. Raises Overloaded or Stopping."""
        with self.changed:
            if self.stop_at is not None:
                raise Stopping("the server is stopping: try again in a moment", 1)
            if len(self.waiting) + len(self.running) >= self.running_limit + self.waiting_limit:
                self.counts["refused"] += 1
                # A place comes free when one answer ends: their mean length over how many run.
                wait_s = max(1, math.ceil(self.mean_answer_s / self.running_limit))
                raise Overloaded(
                    f"{len(self.running)} answers are being written and {len(self.waiting)} "
                    f"requests wait, which is the limit: try again in about {wait_s} s",
                    wait_s,
                )
            ticket = Ticket(self.engine.answer(prompt, sampling))
            self.waiting.append(ticket)
            self.changed.notify()
            return ticket

    def snapshot(self) -> dict[str, Any]:
        """Numbers for /stats, all from one moment."""
        with self.changed:
            return {
                "running": len(self.running),
                "waiting": len(self.waiting),
                "running_limit": self.running_limit,
                "waiting_limit": self.waiting_limit,
                "requests": dict(self.counts),
                "tokens": dict(self.tokens),
                "mean_answer_s": round(self.mean_answer_s, 3),
            }

    # --- inside the thread ---

    def _run(self) -> None:
        batch = self.engine.batch(rows=self.running_limit)
        while (joining := self._admit(batch)) is not None:
            try:
                self._write(batch, joining)
            except Exception:  # the step of all rows broke, and the batch's state with it
                logger.exception("the engine failed")
                sentence = "the model failed while answering; try again, or see the server's log"
                self._end(list(self.running.values()), "failed", EngineFailed(sentence))
                batch = self.engine.batch(rows=self.running_limit)

    def _admit(self, batch: Batch) -> list[Ticket] | None:
        """Sleep while there is nothing to do; who left goes, who waited gets a place.

        Returns the requests that join the batch now, or None when the thread should end.
        """
        with self.changed:
            while not self.waiting and not self.running and self.stop_at is None:
                self.changed.wait()
            for ticket in [t for t in self.running.values() if t.cancelled]:
                batch.leave(ticket.answer)
                self._end([ticket], "cancelled")
            self._end([t for t in self.waiting if t.cancelled], "cancelled")
            if self.stop_at is not None:
                stopped = Stopping("the server is stopping: try again in a moment", 1)
                self._end(list(self.waiting), "cancelled", stopped)
                if time.monotonic() >= self.stop_at:
                    self._end(list(self.running.values()), "cancelled", stopped)
                if not self.running:
                    return None
            joining = []
            while self.waiting and len(self.running) < self.running_limit:
                ticket = self.waiting.popleft()
                ticket.started_at = time.monotonic()
                self.running[ticket.answer] = ticket
                self.tokens["prompt"] += len(ticket.answer.prompt)
                joining.append(ticket)
            return joining

    def _write(self, batch: Batch, joining: list[Ticket]) -> None:
        """One more token for every running answer; newcomers first, their wait is the longest."""
        if joining:
            self._pass_on(batch.join([ticket.answer for ticket in joining]))
        if batch.answers:
            self._pass_on(batch.step())

    def _pass_on(self, progress: Sequence[tuple[Answer, TokenEvent]]) -> None:
        with self.changed:
            self.tokens["generated"] += len(progress)
            for answer, event in progress:
                ticket = self.running[answer]
                ticket.send(event)
                if event.finish_reason:
                    spent_s = time.monotonic() - ticket.started_at
                    self.mean_answer_s += 0.2 * (spent_s - self.mean_answer_s)
                    self._end([ticket], "finished")

    def _end(self, tickets: list[Ticket], how: str, last: Exception | None = None) -> None:
        """Forget these requests; `last` is sent where no finish_reason was."""
        with self.changed:  # an RLock: the callers above hold it already
            for ticket in tickets:
                if self.running.pop(ticket.answer, None) is None:
                    self.waiting.remove(ticket)
                self.counts[how] += 1
                if last is not None:
                    ticket.send(last)
