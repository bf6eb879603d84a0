"""Programs on request: in the sandbox, a few at a time, ended when nobody waits for them any more.

Called by bridge_app.py. A box for every place is kept started, so that a run begins at once.
Read: RunDesk.start -> run_events -> whole_run -> outcome_body.
"""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from nanochat.execution import Limits, Outcome, SandboxUnavailable, pick_tier, run
from nanochat.execution_boxes import Box, Tier, start_box
from nanochat.serve.bridge_settings import BridgeSettings
from nanochat.serve.errors import ApiError, Overloaded, TooLarge

Json = dict[str, Any]


class NoSandbox(ApiError):
    """Code cannot be run safely on this machine, so it is not run."""

    status = 503
    type = "not_ready_error"
    code = "sandbox_unavailable"


class RunsBusy(Overloaded):
    """As many programs as may run are running."""

    status = 429
    code = "runs_busy"


class RunDesk:
    """Gives out places in the sandbox and keeps a started box for each."""

    def __init__(self, settings: BridgeSettings) -> None:
        self.settings = settings
        self.places = threading.BoundedSemaphore(settings.running_limit)
        self.spares: list[Box] = []
        self.guard = threading.Lock()
        # A box dies with the thread that started it (bubblewrap's --die-with-parent), so one thread
        # that stays starts all that wait.
        self.starter = ThreadPoolExecutor(1, "box-starter")
        self.closed = False

    def tier(self) -> Tier:
        """The strongest sandbox there is. Raises NoSandbox."""
        try:
            return pick_tier()
        except SandboxUnavailable as error:
            raise NoSandbox(str(error)) from error

    def warm(self) -> None:
        """Start what spare boxes are missing; called in a thread, so that no request waits."""
        with self.guard, suppress(SandboxUnavailable):
            while len(self.spares) < self.settings.running_limit and not self.closed:
                started = self.starter.submit(start_box, pick_tier(), Limits().disk_bytes)
                self.spares.append(started.result())

    def take(self, tier: Tier | None = None) -> Box | None:
        """A spare box, of this tier if one is named, that still waits for a job."""
        while self.spares:
            with suppress(IndexError):  # another thread took the last one
                box = self.spares.pop(0)
                if box.process.poll() is None and tier in (None, box.tier):
                    return box
                box.kill()
        return None

    def close(self) -> None:
        """Start no box any more, and end those that wait for a job."""
        self.closed = True
        with self.guard:  # no box is being started any more
            while (box := self.take()) is not None:
                box.kill()
        self.starter.shutdown()

    def check(self, code: str, wall_s: float) -> None:
        """Refuse a program that is too long or wants too much time."""
        s = self.settings
        if len(code) > s.max_code_characters:
            raise TooLarge(
                f"the program has {len(code):,} characters, limit {s.max_code_characters:,}: "
                "shorten it",
                param="code",
            )
        if wall_s > s.max_wall_s:
            raise TooLarge(
                f"wall_s is {wall_s:g}, limit {s.max_wall_s:g}: ask for less", param="wall_s"
            )

    async def run_events(
        self, code: str, wall_s: float, calls: Sequence[str] = ()
    ) -> AsyncIterator[Json | Outcome]:
        """Output events as they come, then the Outcome. Closing the iterator ends the program."""
        self.check(code, wall_s)
        tier = await asyncio.to_thread(self.tier)
        if not self.places.acquire(blocking=False):
            raise RunsBusy(
                f"{self.settings.running_limit} programs are running, which is the limit: try "
                "again in a moment",
                1,
            )
        loop, cancel = asyncio.get_running_loop(), threading.Event()
        queue: asyncio.Queue[Json | Outcome | BaseException] = asyncio.Queue()

        def tell(item: Json | Outcome | BaseException) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def work() -> None:
            item: Outcome | BaseException
            try:
                item = run(
                    code,
                    Limits(wall_s=wall_s, cpu_s=int(wall_s) + 1),
                    calls=calls,
                    cancel=cancel,
                    tier=tier,
                    box=self.take(tier),
                    on_output=lambda stream, text: tell(
                        {"event": "output", "stream": stream, "text": text}
                    ),
                )
            except BaseException as error:
                item = error
                raise
            finally:
                self.places.release()  # before the answer: who has it may ask again at once
                tell(item)
                self.warm()

        threading.Thread(target=work, name="run", daemon=True).start()
        try:
            yield {"event": "begin"}
            while True:
                item = await queue.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if isinstance(item, Outcome):
                    return
        finally:
            cancel.set()

    async def whole_run(self, code: str, wall_s: float, calls: Sequence[str] = ()) -> Outcome:
        """Run a program to its end; returns the outcome alone."""
        async for item in self.run_events(code, wall_s, calls):
            if isinstance(item, Outcome):
                return item
        raise AssertionError("a run ends with its outcome")


def outcome_body(outcome: Outcome) -> Json:
    """An outcome as the client gets it."""
    return {
        "ended": outcome.ended,
        "exit_code": outcome.exit_code,
        "stdout": outcome.stdout,
        "stderr": outcome.stderr,
        "seconds": outcome.seconds,
        "memory_bytes": outcome.memory_bytes,
        "tier": outcome.tier,
        "pictures": [base64.b64encode(picture).decode() for picture in outcome.pictures],
    }
