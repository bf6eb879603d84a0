"""How long a server takes to leave: SIGTERM while many answers are being written.

Called by scripts/bench.py: `nanochat bench drain`. A server of our own with a random model writes
`streams` long answers; then it is told to stop. Each stream must still end in one last event, an
answer's or an error's, and the process with code 0.
Read: DrainBenchSettings -> bench_drain -> stopped_while_writing.
"""

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from nanochat.load_client import Outcome, Target, ask
from nanochat.load_host import HostFailed, ready, save_random_model, start, stop
from nanochat.load_plan import LoadSettings, asks
from nanochat.load_run import readings

START_WITHIN_S = 60.0


@dataclass(frozen=True)
class DrainBenchSettings:
    """A server, its streams, and what it is started with."""

    streams: int = 16  # answers that are being written when the signal comes
    max_tokens: int = 1900  # longest answer, tokens: longer than a drain lasts
    context: int = 2048  # context of the random model, tokens
    limit_s: float = 30.0  # when to give up waiting for the exit, seconds
    server_flags: str = ""  # more flags for chat-web, such as "--drain-s 2"
    json: bool = False  # print one JSON object as the last line


def bench_drain(settings: DrainBenchSettings) -> dict[str, Any]:
    """Seconds from the signal to the exit, and how the streams ended. Raises HostFailed."""
    load = LoadSettings(
        self_host=True,
        random_model=True,
        context=settings.context,
        max_tokens=settings.max_tokens,
        server_flags=settings.server_flags,
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NANOCHAT_BASE_DIR": folder}
        save_random_model(load, Path(folder))
        with (Path(folder) / "server.log").open("w") as errors:
            process = start(load, environment, errors)
            try:
                target = Target(load, ready(process, Path(folder) / "server.log"))
                return asyncio.run(stopped_while_writing(process, target, load, settings))
            finally:
                stop(process)


async def stopped_while_writing(
    process: subprocess.Popen[str], target: Target, load: LoadSettings, settings: DrainBenchSettings
) -> dict[str, Any]:
    """Ask, wait until everyone is being answered, send the signal, wait for all ends."""
    wishes = islice(asks(replace(load, disconnect=0.0), "drain"), settings.streams)
    streams = [asyncio.create_task(ask(target, wish)) for wish in wishes]
    give_up = time.perf_counter() + START_WITHIN_S
    while (await readings(target)).get("num_requests_running") != settings.streams:
        if time.perf_counter() > give_up or any(stream.done() for stream in streams):
            raise HostFailed(f"{settings.streams} answers were never written at the same time")
        await asyncio.sleep(0.02)
    began = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        await asyncio.to_thread(process.wait, settings.limit_s)
    exit_s, code = time.perf_counter() - began, process.poll()
    if code is None:
        raise HostFailed(f"the server still ran {settings.limit_s:g} s after SIGTERM")
    ends = [how_it_ended(outcome) for outcome in await asyncio.gather(*streams)]
    counts = {kind: ends.count(kind) for kind in ("finished", "error_event", "cut")}
    return {"exit_s": round(exit_s, 2), "exit_code": code, "streams": settings.streams} | counts


def how_it_ended(outcome: Outcome) -> str:
    """finished and error_event are one last event each; cut is a stream without one."""
    if outcome.answered:
        return "finished"
    return (
        "cut" if outcome.error.startswith(("EOFError", "OSError", "Connection")) else "error_event"
    )
