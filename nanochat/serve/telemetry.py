"""The chat server's eyes: builds the Observer from the settings, and serves /metrics.

nanochat/observe knows nothing of ours; this file ties it to the app. The app keeps the Observer as
app.state.observer, wraps itself in ObserveHTTP (the outermost middleware), starts and closes the
tracer in its lifespan, and gives the scheduler `observer.begin(...)` as each request's listener.
Called by chat_app.py. Read: new_observer -> metrics_page.
"""

import asyncio
import logging
import platform
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch
from fastapi import Request
from fastapi.responses import Response

from nanochat.observe.cost import CostMeter
from nanochat.observe.generation import Observer
from nanochat.observe.logs import LineWriter
from nanochat.observe.machine import watch_machine
from nanochat.observe.metrics import ServerMetrics
from nanochat.observe.tracing import Tracer
from nanochat.serve.settings import ServedModel, ServeSettings


def package_version() -> str:
    """The version as installed; 'unknown' where it is not."""
    try:
        return version("nanochat")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "unknown"


def new_observer(settings: ServeSettings, model: ServedModel) -> Observer:
    """Metrics and bill always, a tracer where an endpoint was given. Starts no thread."""
    build = {
        "version": package_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    metrics = ServerMetrics(model.name, build)
    watch_machine(metrics)
    for handler in logging.getLogger("nanochat").handlers:
        if isinstance(handler, LineWriter):
            about = "Lines of log that found no room on the disk or in the queue"
            metrics.watch_count("log_lines_lost", about, partial(getattr, handler, "lost"))
    tracer = None
    if settings.otlp_endpoint:
        service = {"service.name": "nanochat", "service.version": build["version"]}
        tracer = Tracer(settings.otlp_endpoint, service)
    return Observer(metrics, CostMeter(settings.usd_per_hour), tracer)


async def metrics_page(request: Request) -> Response:
    """All series as text; made in a worker thread, because it takes some milliseconds."""
    metrics: ServerMetrics = request.app.state.observer.metrics
    accept = request.headers.get("accept", "")
    page, content_type = await asyncio.to_thread(metrics.render, accept)
    return Response(page, headers={"Content-Type": content_type})
