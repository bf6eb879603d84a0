"""What operators ask: does it live, is it ready, what is it doing.

/livez: the process and the engine's thread live and move; only a restart helps when not.
/readyz: it takes new requests; off while it drains. /startupz: the first answer can be written.
/health and /stats: the same for people and for the page. (/metrics is in telemetry.py.)
Called by chat_app.py. Read: live -> ready -> trouble_of -> stats.
"""

import time
from dataclasses import asdict
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from nanochat.serve.openai_api import DIALS

LIMITS = ("max_tokens_limit", "max_messages", "max_characters", "max_body_bytes", "deadline_s")


async def live(request: Request) -> JSONResponse:
    """200 while the engine's thread lives and moves; 503 when it died or hangs."""
    state = request.app.state
    if state.thread.draining:
        return said("ok", True)
    trouble = trouble_of(state)
    return said(trouble or "ok", not trouble)


async def ready(request: Request) -> JSONResponse:
    """200 while new requests are taken; 503 while it drains or when the engine died or hangs."""
    state = request.app.state
    trouble = "draining" if state.thread.draining else trouble_of(state)
    return said(trouble or "ok", not trouble)


def trouble_of(state: Any) -> str:
    """What ails the engine, "" for nothing: its thread is gone, or one step does not end.

    Looks at two times and waits for no lock, which a thread that hangs might hold.
    """
    if not state.thread.alive():
        return "engine stopped"
    waiting = [ticket.submitted_at for ticket in list(state.thread.open.values())]
    if waiting:
        idle_s = time.monotonic() - max(state.thread.stepped_at, min(waiting))
        if idle_s > state.settings.stuck_s:
            return "engine stuck"
    return ""


def said(status: str, fine: bool) -> JSONResponse:
    return JSONResponse({"status": status}, status_code=200 if fine else 503)


async def health(request: Request) -> JSONResponse:
    """What /readyz says, with the name of the model."""
    state = request.app.state
    trouble = trouble_of(state) or ("draining" if state.thread.draining else "")
    body = {"status": trouble or "ok", "ready": not trouble, "model": state.model.name}
    return JSONResponse(body, status_code=503 if trouble else 200)


async def stats(request: Request) -> dict[str, Any]:
    """What is served, its limits and defaults, and what it has done so far."""
    state, settings = request.app.state, request.app.state.settings
    return {
        "model": asdict(state.model) | {"context": state.engine.context},
        "defaults": {name: getattr(settings, name) for name in DIALS},
        "limits": {name: getattr(settings, name) for name in LIMITS},
        "needs_key": bool(state.keys),
        "uptime_s": round(time.monotonic() - state.started_at, 1),
        **state.thread.snapshot(),
    }
