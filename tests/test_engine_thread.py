"""The thread that owns the scheduler: whatever breaks, each request is told exactly one end."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tiny_models import byte_tokenizer, lively_model

from nanochat.engine import Engine
from nanochat.sampling import Sampling
from nanochat.scheduler import Deaf, SchedulerSettings, Written
from nanochat.serve import engine_thread
from nanochat.serve.engine_thread import EngineThread, Wish
from nanochat.serve.errors import ApiError, EngineFailed, Stopping, TooLate
from nanochat.serve.replies import ChatReply

PROMPT = [byte_tokenizer().special("bos"), 65, 66]


class Broken(Exception):
    """What a test lets go wrong."""


def with_thread(work: Callable[[EngineThread], Coroutine[Any, Any, None]]) -> EngineThread:
    """Run `work` in an event loop beside a thread of two rows."""
    engine = Engine(lively_model(1), byte_tokenizer())
    thread = EngineThread(engine, SchedulerSettings(rows=2), 8, 60.0)
    thread.start()
    try:
        asyncio.run(work(thread))
    finally:
        thread.stop()
    return thread


def wish(max_tokens: int, listener: Deaf | None = None) -> Wish:
    return Wish(PROMPT, Sampling(max_tokens, temperature=0), listener)


async def ends(thread: EngineThread, *wishes: Wish) -> list[Any]:
    """How each of these ends: a finish_reason or the class of its error."""

    async def one(wish: Wish) -> Any:
        last = None
        try:
            async for _, written in thread.submit([wish]).written():
                last = written.event.finish_reason
        except ApiError as error:
            return type(error)
        return last

    return list(await asyncio.gather(*(one(each) for each in wishes)))


def test_an_answer_that_ended_in_a_step_that_broke_has_ended():
    async def work(thread: EngineThread) -> None:
        write_all = thread.scheduler._write_all

        def breaks_later(meanwhile: Any) -> None:
            if any(isinstance(n, Written) and n.event.finish_reason for n in thread.scheduler.news):
                raise Broken
            write_all(meanwhile)

        thread.scheduler._write_all = breaks_later  # type: ignore[method-assign]
        assert await ends(thread, wish(200), wish(1)) == [EngineFailed, "length"]
        assert await ends(thread, wish(3)) == ["length"]

    assert with_thread(work).counts["finished"] == 2


def test_a_listener_that_breaks_at_its_end_harms_no_other_request():
    class Bad(Deaf):
        def end(self, reason: str, error_type: str = "") -> None:
            raise Broken

    async def work(thread: EngineThread) -> None:
        assert await ends(thread, wish(3, Bad()), wish(40), wish(40, Bad())) == [EngineFailed] * 3
        assert await ends(thread, wish(3)) == ["length"]

    with_thread(work)


def test_a_request_that_arrives_while_a_step_breaks_is_answered():
    async def work(thread: EngineThread) -> None:
        began, go = threading.Event(), threading.Event()
        step = thread.scheduler.step

        def breaks_once(meanwhile: Any) -> Any:
            thread.scheduler.step = step  # type: ignore[method-assign]
            began.set()
            go.wait()
            raise Broken

        thread.scheduler.step = breaks_once  # type: ignore[method-assign]
        first = asyncio.create_task(ends(thread, wish(3)))
        await asyncio.to_thread(began.wait)
        second = asyncio.create_task(ends(thread, wish(3)))
        while len(thread.open) < 2:
            await asyncio.sleep(0)
        go.set()
        assert await first == [EngineFailed] and await second == ["length"]

    with_thread(work)


@pytest.mark.parametrize("exhausted", ["nothing", "memory"])
def test_after_a_broken_step_nothing_is_needed_that_could_be_short(monkeypatch, exhausted):
    def short(*_: Any, **__: Any) -> None:
        raise MemoryError

    async def work(thread: EngineThread) -> None:
        forward = thread.scheduler.model.forward
        if exhausted == "memory":
            monkeypatch.setattr("nanochat.scheduler.BlockStore", short)
            monkeypatch.setattr("torch.zeros", short)
        thread.scheduler.model.forward = short  # type: ignore[method-assign]
        assert await ends(thread, wish(3), wish(3), wish(3)) == [EngineFailed] * 3
        thread.scheduler.model.forward = forward  # type: ignore[method-assign]
        assert await ends(thread, wish(3)) == ["length"]
        assert thread.snapshot()["waiting"] == thread.snapshot()["running"] == 0

    with_thread(work)


@pytest.mark.parametrize(("deadline_s", "end"), [(0.0, TooLate), (60.0, Stopping)])
def test_a_step_that_never_returns_holds_up_neither_a_client_nor_the_end(
    monkeypatch, deadline_s, end
):
    monkeypatch.setattr(engine_thread, "LAST_STEP_S", 0.05)
    monkeypatch.setattr(engine_thread, "PATIENCE_S", 0.05)
    stuck, go = threading.Event(), threading.Event()

    async def work(thread: EngineThread) -> None:
        def hangs(meanwhile: Any) -> Any:
            stuck.set()
            go.wait()
            raise Broken

        thread.scheduler.step = hangs  # type: ignore[method-assign]
        thread.deadline_s = deadline_s
        asked = asyncio.create_task(ends(thread, wish(3), wish(3)))
        await asyncio.to_thread(stuck.wait)
        if end is Stopping:
            await asyncio.to_thread(thread.stop, 0.05)
        assert await asked == [end, end]
        go.set()

    with_thread(work)


def test_a_place_that_an_answer_left_too_late_counts_as_freed():
    async def work(thread: EngineThread) -> None:
        thread.deadline_s = 0.0
        assert await ends(thread, wish(3), wish(3)) == [TooLate, TooLate]

    assert len(with_thread(work).rate.ends) == 2


def test_the_speed_line_tells_when_tokens_were_written_not_when_they_were_heard_of():
    async def work(thread: EngineThread) -> None:
        tickets = thread.submit([wish(5)])
        reply = ChatReply("m", tickets, byte_tokenizer(), len(PROMPT))
        async for ticket, written in tickets.written():
            reply.collect(ticket, written)
        request = next(iter(tickets)).request
        assert request.first_at is not None and request.last_at is not None
        assert request.first_at < request.last_at
        request.first_at, request.last_at = 10.0, 12.0
        assert reply.summary()["timings"]["tokens_per_s"] == 2.0  # four after the first, 2 s

    with_thread(work)
