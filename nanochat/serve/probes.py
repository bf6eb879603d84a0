"""What operators ask: does it live, is it ready, what is it doing.

/livez: the process and the engine's thread live; only a restart helps when not.
/readyz: it takes new requests; off while it drains. /startupz: the first answer can be written.
/health and /stats: the same for people and for the page. (/metrics is in telemetry.py.)
Called by chat_app.py. Read: live -> ready -> stats.
"""

import time
from dataclasses import asdict
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from nanochat.serve.openai_api import DIALS

LIMITS = ("max_tokens_limit", "max_messages", "max_characters", "max_body_bytes", "deadline_s")


async def live(request: Request) -> JSONResponse:
    """200 while the engine's thread lives; 503 when it died: then only a restart helps."""
    alive = request.app.state.thread.alive() or request.app.state.thread.draining
    return said("ok" if alive else "engine stopped", alive)


async def ready(request: Request) -> JSONResponse:
    """200 while new requests are taken; 503 while it drains or after the engine died."""
    thread = request.app.state.thread
    if thread.draining:
        return said("draining", False)
    return said("ok" if thread.alive() else "engine stopped", thread.alive())


def said(status: str, fine: bool) -> JSONResponse:
    return JSONResponse({"status": status}, status_code=200 if fine else 503)


async def health(request: Request) -> JSONResponse:
    """What /readyz says, with the name of the model."""
    state = request.app.state
    fine = state.thread.alive() and not state.thread.draining
    status = "ok" if fine else "draining" if state.thread.alive() else "engine stopped"
    body = {"status": status, "ready": fine, "model": state.model.name}
    return JSONResponse(body, status_code=200 if fine else 503)


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
