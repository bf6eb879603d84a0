"""What observability costs: requests a second of a trivial route, bare and observed.

A server runs in a process of its own, once bare, once with metrics and traces (sent to a collector
that listens), once with logs as well; rounds alternate because speed drifts on shared machines.
Called by scripts/bench.py; `python -m nanochat.serve.http_bench KIND COLLECTOR LOG` is the server.
Read: bench_observe -> served -> hammer -> main.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import uvicorn
from fastapi import FastAPI

from nanochat.observe.cost import CostMeter
from nanochat.observe.generation import Observer
from nanochat.observe.logs import start_logging
from nanochat.observe.metrics import ServerMetrics
from nanochat.observe.middleware import ObserveHTTP
from nanochat.observe.tracing import Tracer
from nanochat.serve.server import address_of, open_socket

KINDS = ("bare", "observed", "logged")
REQUEST = b"GET /trivial HTTP/1.1\r\nHost: bench\r\n\r\n"
Server = tuple[str, int, psutil.Process]  # host, port, process


@dataclass(frozen=True)
class ObserveBenchSettings:
    """Requests a second of a trivial route: bare, with metrics and traces, with logs as well."""

    requests: int = 3000  # requests in a round
    rounds: int = 5  # rounds of each kind
    connections: int = 8  # connections that ask at the same time
    json: bool = False  # print one JSON object as the last line


def bench_observe(settings: ObserveBenchSettings) -> dict[str, float]:
    """Medians over the rounds, and the shares of the bare speed that are left."""
    return asyncio.run(rounds(settings))


async def rounds(settings: ObserveBenchSettings) -> dict[str, float]:
    """Requests a second with and without the observer, turn by turn."""
    collector = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = collector.sockets[0].getsockname()[1]
    rps: dict[str, list[float]] = {kind: [] for kind in KINDS}
    cpu_us: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder, served(port, folder) as servers:
        for kind in KINDS:
            await hammer(servers[kind], settings.requests // 5, settings.connections)  # warm up
        for _ in range(settings.rounds):
            for kind in KINDS:
                before = sum(servers[kind][2].cpu_times()[:2])
                seconds = await hammer(servers[kind], settings.requests, settings.connections)
                spent = sum(servers[kind][2].cpu_times()[:2]) - before
                rps[kind].append(settings.requests / seconds)
                cpu_us[kind].append(1e6 * spent / settings.requests)
    collector.close()
    found: dict[str, float] = {}
    for kind in KINDS:
        found[f"rps_{kind}"] = round(statistics.median(rps[kind]), 1)
        found[f"cpu_us_{kind}"] = round(statistics.median(cpu_us[kind]), 1)
    for kind in KINDS[1:]:
        found[f"share_{kind}"] = round(found[f"rps_{kind}"] / found["rps_bare"], 3)
    return found


async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A collector that takes everything."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
    await reader.readexactly(length)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await writer.drain()
    writer.close()


async def hammer(server: Server, requests: int, connections: int) -> float:
    """Seconds for so many requests, each connection asking again as soon as it was answered."""
    left = requests

    async def one() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection(*server[:2])
        while left > 0:
            left -= 1
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r")[0]))
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    return time.perf_counter() - start


@contextmanager
def served(collector_port: int, folder: str) -> Iterator[dict[str, Server]]:
    """One server process of each kind, ended when the block is."""
    processes = {}
    try:
        for kind in KINDS:
            log = Path(folder) / f"{kind}.jsonl"
            words = [kind, f"http://127.0.0.1:{collector_port}", str(log)]
            command = [sys.executable, "-m", "nanochat.serve.http_bench", *words]
            processes[kind] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        found = {}
        for kind, process in processes.items():
            assert process.stdout is not None
            host, _, port = process.stdout.readline().strip().rpartition("/")[2].partition(":")
            found[kind] = host, int(port), psutil.Process(process.pid)
        yield found
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def trivial_app(kind: str, collector: str, log: str) -> FastAPI:
    """One route that does nothing, observed or not."""
    app = FastAPI()

    async def trivial() -> dict[str, str]:
        return {"status": "ok"}

    app.add_api_route("/trivial", trivial)
    if kind != "bare":
        tracer = Tracer(collector, {"service.name": "nanochat-bench"})
        tracer.start()
        observer = Observer(ServerMetrics("none", {"version": "bench"}), CostMeter(0.0), tracer)
        app.add_middleware(ObserveHTTP, observer=observer)
    start_logging(log, "INFO" if kind == "logged" else "WARNING")
    return app


def main(kind: str, collector: str, log: str) -> None:
    bound = open_socket("127.0.0.1", 0)
    bound.listen(128)
    app = trivial_app(kind, collector, log)
    config = uvicorn.Config(app, log_level="warning", access_log=False, log_config=None)
    print(address_of(bound), flush=True)
    uvicorn.Server(config).run(sockets=[bound])


if __name__ == "__main__":
    main(*sys.argv[1:])
