"""How long a learner waits for a program: POST /run of a real bridge over a socket, timed.

Called by scripts/bench.py: `nanochat bench sandbox`. Clients send print(1) one after the other;
each waits for its answer. Read: bench_sandbox -> start_times -> ask_in_turns.
"""

import statistics
import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx

from nanochat.errors import UserError
from nanochat.execution import Limits, pick_tier, run
from nanochat.execution_boxes import start_box
from nanochat.serve.bridge_app import create_app
from nanochat.serve.bridge_guard import mint_token
from nanochat.serve.bridge_server import bridge_in_thread, open_loopback
from nanochat.serve.bridge_settings import BridgeSettings
from nanochat.serve.server import address_of

PROGRAM = "print(1)"


class RunFailed(UserError):
    """The program that is timed did not print what it should."""


@dataclass(frozen=True)
class SandboxBenchSettings:
    """What to measure."""

    requests: int = 100  # programs of all clients together
    clients: int = 2  # programs that are asked for at the same time
    starts: int = 20  # runs in a fresh box and in one kept ready
    json: bool = False  # print one JSON object as the last line


def bench_sandbox(settings: SandboxBenchSettings) -> dict[str, Any]:
    """Milliseconds: p50, p95 and the worst of /run; a run in a fresh box and in a waiting one."""
    found: dict[str, Any] = {"tier": pick_tier(), "clients": settings.clients}
    found |= start_times(settings.starts)
    bound, token = open_loopback(0), mint_token()
    app = create_app(BridgeSettings(), token, bound.getsockname()[1])
    address = address_of(bound)
    times: list[float] = []
    wrong: list[str] = []
    with bridge_in_thread(app, bound):
        ask_in_turns(address, token, 2, [], wrong)  # the first ones find no box ready
        each = max(1, settings.requests // settings.clients)
        threads = [
            threading.Thread(target=ask_in_turns, args=(address, token, each, times, wrong))
            for _ in range(settings.clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if wrong:
        raise RunFailed(f"{len(wrong)} programs did not print 1, one said: {wrong[0]:.300}")
    ordered = sorted(1000 * seconds for seconds in times)
    ranks = {"p50_ms": 0.5, "p95_ms": 0.95, "worst_ms": 1.0}
    for name, share in ranks.items():
        found[name] = round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)
    return found | {"requests": len(times)}


def start_times(rounds: int) -> dict[str, float]:
    """Median milliseconds of print(1): with the start of its box, and in a box that waits."""
    cold, warm = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        run(PROGRAM)
        cold.append(time.perf_counter() - start)
        box = start_box(pick_tier(), Limits().disk_bytes)
        time.sleep(0.2)  # so that Python in it is up
        start = time.perf_counter()
        run(PROGRAM, box=box)
        warm.append(time.perf_counter() - start)
    return {
        "cold_start_ms": round(1000 * statistics.median(cold), 1),
        "warm_start_ms": round(1000 * statistics.median(warm), 1),
    }


def ask_in_turns(
    address: str, token: str, count: int, times: list[float], wrong: list[str]
) -> None:
    """Run the program `count` times, each when the last one was answered; notes the seconds."""
    headers = {"Authorization": f"Bearer {token}", "Origin": address}
    with httpx.Client(base_url=address, headers=headers, timeout=60) as client:
        for _ in range(count):
            start = time.perf_counter()
            answer = client.post("/run", json={"code": PROGRAM})
            seconds = time.perf_counter() - start
            if answer.status_code == 200 and answer.json()["stdout"] == "1\n":
                times.append(seconds)
            else:
                wrong.append(answer.text)
