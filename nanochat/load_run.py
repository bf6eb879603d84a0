"""Let a crowd loose on a server: a closed loop of clients, an open loop of arrivals, and a probe.

Called by scripts/load_test.py. Read: whole_test -> Phase -> closed_loop -> open_loop -> probe ->
settled.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from nanochat.errors import UserError
from nanochat.load_client import Outcome, Target, ask, get
from nanochat.load_plan import Ask, LoadSettings, asks, poisson_times

PROBE_EVERY_S = 0.05
GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
LONGEST_PAUSE_S = 5.0  # how long a rejected client of the closed loop waits at most


class NotReady(UserError):
    """The server does not answer a single request, so there is nothing to measure."""


@dataclass
class Phase:
    """A piece of a load test: its name, the window that counts, and what happened in it."""

    name: str
    offered_rps: float | None  # None in a closed loop
    began: float = 0.0  # the window, seconds of time.perf_counter()
    ended: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    probes_s: list[float] = field(default_factory=list)  # how long /livez took
    failed_probes: int = 0


@dataclass
class LoadTest:
    """All phases of a load test, and what /metrics said before and after them."""

    phases: list[Phase] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)


async def whole_test(target: Target, settings: LoadSettings) -> LoadTest:
    """The phases that the settings ask for. Raises NotReady when nothing answers."""
    test = LoadTest()
    first = await ask(target, next(asks(replace(settings, disconnect=0.0), "first")))
    if not first.answered:
        raise NotReady(
            f"http://{target.host}:{target.port}{target.path} does not answer: "
            f"{first.error or first.status}; start one with `nanochat chat-web`, or use --self-host"
        )
    if settings.requests:  # memory is compared once everything has been used a few times
        warm = replace(settings, requests=max(1, settings.requests // 4))
        await closed_loop(target, warm, settings.clients, "warm-up")
    test.before = await settled(target)
    clients = f"{settings.clients} clients"
    if settings.rate:
        test.phases.append(await open_loop(target, settings, settings.rate, "arrivals"))
    elif settings.requests:
        test.phases.append(await closed_loop(target, settings, settings.clients, clients))
    else:
        alone = settings.clients if settings.overload else 1
        plural = "s" if alone > 1 else ""
        test.phases.append(await closed_loop(target, settings, alone, f"{alone} client{plural}"))
        if settings.overload:
            await overload(target, settings, test)
        elif settings.clients > 1:
            test.phases.append(await closed_loop(target, settings, settings.clients, clients))
    test.after = await settled(target)
    return test


async def overload(target: Target, settings: LoadSettings, test: LoadTest) -> None:
    """As many arrivals as the clients got answers, to see the peak; then several times as many."""
    full = test.phases[0]
    done = sum(o.answered and full.began <= o.ended_at <= full.ended for o in full.outcomes)
    rate = max(done, 1) / (full.ended - full.began)
    for times in (1.0, settings.overload):
        await settled(target)
        test.phases.append(await open_loop(target, settings, times * rate, f"{times:g} x load"))


async def closed_loop(target: Target, settings: LoadSettings, clients: int, name: str) -> Phase:
    """`clients` ask, wait for the answer, ask again, until the window is over."""
    phase = Phase(name, None)
    wishes = asks(settings, name)
    if settings.requests:
        wishes = itertools.islice(wishes, settings.requests)
    start = time.perf_counter()
    warmup_s = 0.0 if settings.requests else settings.warmup_s
    phase.began = start + warmup_s
    until = float("inf") if settings.requests else phase.began + settings.seconds
    probing = asyncio.create_task(probe(target, phase))
    await asyncio.gather(*(client(target, wishes, until, phase) for _ in range(clients)))
    phase.ended = min(until, time.perf_counter())
    probing.cancel()
    return phase


async def client(target: Target, wishes: Iterator[Ask], until: float, phase: Phase) -> None:
    """One client of the closed loop; turned away, it comes back when it was told to."""
    for wish in wishes:
        outcome = await ask(target, wish)
        phase.outcomes.append(outcome)
        if outcome.rejected:
            await asyncio.sleep(min(outcome.retry_after_s or 1.0, LONGEST_PAUSE_S))
        elif outcome.status == 0 and not outcome.left:
            await asyncio.sleep(0.1)  # nobody there: don't spin
        if time.perf_counter() >= until:
            return


async def open_loop(target: Target, settings: LoadSettings, rate: float, name: str) -> Phase:
    """Arrivals at random moments, whether or not earlier ones were answered."""
    phase = Phase(name, rate)
    length_s = settings.warmup_s + settings.seconds
    times = poisson_times(rate, length_s, f"{settings.seed} {name}")
    wishes = asks(settings, name)
    start = time.perf_counter()
    phase.began, phase.ended = start + settings.warmup_s, start + length_s
    probing = asyncio.create_task(probe(target, phase))

    async def one(at: float, wish: Ask) -> None:
        await asyncio.sleep(start + at - time.perf_counter())
        phase.outcomes.append(await ask(target, wish))

    await asyncio.gather(*(one(at, next(wishes)) for at in times))
    probing.cancel()
    return phase


async def probe(target: Target, phase: Phase) -> None:
    """Ask /livez all the time: an event loop that computes would answer late."""
    while True:
        began = time.perf_counter()
        status, _ = await get(target, "/livez")
        if began >= phase.began:
            phase.probes_s.append(time.perf_counter() - began)
            phase.failed_probes += status == 0 or status >= 500
        await asyncio.sleep(PROBE_EVERY_S)


async def readings(target: Target) -> dict[str, float]:
    """Gauges and memory from /metrics, by their names without prefix and labels; {} without it."""
    _, page = await get(target, "/metrics")
    wanted = {f"nanochat_{name}": name for name in GAUGES}
    wanted["process_resident_memory_bytes"] = "resident_bytes"
    found = {}
    for line in page.decode().splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in wanted:
            found[wanted[name]] = float(line.rpartition(" ")[2])
    return found


async def settled(target: Target, within_s: float = 10.0) -> dict[str, float]:
    """Readings once nothing runs or waits any more, or the last ones after `within_s`."""
    until = time.perf_counter() + within_s
    while True:
        found = await readings(target)
        if not any(found.get(name) for name in GAUGES) or time.perf_counter() > until:
            return found
        await asyncio.sleep(0.1)
