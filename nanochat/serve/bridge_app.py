"""The bridge as an ASGI app: a learner's own window into the model, and a safe place to run code.

It listens on this machine only and runs what a learner wrote, in the sandbox. bridge_guard.py
decides who may ask; nothing here is reached without it. Every route is in /openapi.json.
Called by scripts/bridge.py and the tests. Read: create_app -> traces -> runs -> exercises -> files.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from nanochat.execution import Outcome, SandboxUnavailable, pick_tier
from nanochat.execution_boxes import compile_figures
from nanochat.paths import ROOT, base_dir
from nanochat.serve import bridge_files as files
from nanochat.serve.bridge_guard import Guard
from nanochat.serve.bridge_map import MapDesk
from nanochat.serve.bridge_ranges import ranged
from nanochat.serve.bridge_runs import RunDesk, outcome_body
from nanochat.serve.bridge_schemas import (
    CheckAnswer,
    CheckBody,
    ErrorBody,
    RunAnswer,
    RunBody,
    StatusAnswer,
    TraceAnswer,
    TraceBody,
)
from nanochat.serve.bridge_settings import BridgeSettings
from nanochat.serve.bridge_traces import Loader, NoModel, TraceDesk
from nanochat.serve.errors import ApiError, NotServed, explain_validation
from nanochat.serve.exercises import read_exercises, verdict
from nanochat.serve.headers import BodyLimit
from nanochat.serve.trace_picture import trace_picture

HERE = Path(__file__).parent / "bridge_static"
REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody, "description": about}
    for code, about in (
        (400, "something in the request is wrong"),
        (401, "the token is missing or wrong"),
        (403, "another origin"),
        (404, "there is no such thing"),
        (413, "too large"),
        (415, "not JSON"),
        (421, "another host"),
        (422, "something in the request is wrong"),
        (429, "busy: Retry-After says how long"),
        (503, "not possible here, with the reason"),
    )
}
router = APIRouter(responses=REFUSALS)


def create_app(
    settings: BridgeSettings, token: str, port: int, load: Loader | None = None
) -> FastAPI:
    """The whole bridge. `load` gives model and tokenizer where no checkpoint should be read."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(asyncio.to_thread(app.state.runs.warm))
        compiling = asyncio.create_task(asyncio.to_thread(compile_figures))
        if settings.index:
            app.state.map.start()
        yield
        await warming
        await compiling
        await app.state.map.close()
        app.state.runs.close()

    app = FastAPI(
        title="nanochat bridge",
        description="Traces, a sandbox, exercises and the code map. Loopback only, with a token.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    root = settings.root or ROOT
    app.state.settings, app.state.root = settings, root
    app.state.traces = TraceDesk(settings, load)
    app.state.runs = RunDesk(settings)
    app.state.map = MapDesk(settings)
    app.state.exercises = read_exercises(root / "docs" / "exercises")
    app.state.pyodide = settings.pyodide or base_dir() / "pyodide"
    app.state.viewer = root / "docs" / "viewer" / "dist"
    app.state.solved = {}  # exercise -> the values of its solution
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=HERE))
    app.mount("/shared", StaticFiles(directory=HERE.parent / "static"))  # the chat page's parts
    app.mount("/pyodide", StaticFiles(directory=app.state.pyodide, check_dir=False))
    app.mount("/assets", StaticFiles(directory=app.state.viewer / "assets", check_dir=False))
    for kind in (ApiError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer_refusal)
    app.add_middleware(BodyLimit, limit_bytes=settings.max_body_bytes)
    app.add_middleware(Guard, token=token, port=port, origins=settings.allow_origin)
    return app


async def answer_refusal(request: Request, error: Exception) -> JSONResponse:
    """Every refusal in one shape."""
    if isinstance(error, RequestValidationError):
        error = explain_validation(error.errors())
    if isinstance(error, HTTPException):
        error = NotServed(
            f"{error.detail} ({request.method} {request.url.path})", error.status_code
        )
    assert isinstance(error, ApiError), "only these three are registered"
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())


async def lines(events: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """NDJSON: one event a line. A refusal before the first is an answer of its own, later the
    last line."""
    first = await anext(events)

    async def body() -> AsyncIterator[bytes]:
        async with aclosing(events) as open_events:  # type: ignore[type-var]
            yield json.dumps(first).encode() + b"\n"
            try:
                async for event in open_events:
                    yield json.dumps(event).encode() + b"\n"
            except ApiError as error:
                yield json.dumps({"event": "error"} | error.body()).encode() + b"\n"

    return StreamingResponse(body(), media_type="application/x-ndjson")


# --- pages ---


@router.get("/", include_in_schema=False)
async def page(request: Request) -> FileResponse:
    """The viewer once it is built, else the start page."""
    viewer = request.app.state.viewer / "index.html"
    return FileResponse(viewer if viewer.is_file() else HERE / "index.html")


@router.get("/start", include_in_schema=False)
async def start_page() -> FileResponse:
    return FileResponse(HERE / "index.html")


@router.get("/box", include_in_schema=False)
async def box_page() -> FileResponse:
    """The frame that runs Python in the browser; its headers make its origin nobody's."""
    return FileResponse(HERE / "box.html")


@router.get("/guide", include_in_schema=False)
async def guide(request: Request) -> FileResponse:
    return FileResponse(request.app.state.root / "educational_guide.html")


@router.get("/health")
async def health() -> dict[str, str]:
    """Is the bridge there? Says nothing else, and needs no token."""
    return {"status": "ok"}


@router.get("/status", response_model=StatusAnswer)
async def status(request: Request) -> dict[str, Any]:
    """What works here, and why the rest does not."""
    state = request.app.state
    model, model_problem, tier, tier_problem = None, None, None, None
    try:
        found, _ = await asyncio.to_thread(state.traces.models.get)
        config = found.config
        model = {"layers": config.n_layer, "heads": config.n_head, "context": config.sequence_len}
    except NoModel as error:
        model_problem = str(error)
    try:
        tier = await asyncio.to_thread(pick_tier)
    except SandboxUnavailable as error:
        tier_problem = str(error)
    pyodide = (state.pyodide / "pyodide.mjs").is_file()
    fetch = "Python for the browser is not here yet: fetch it with `nanochat browser-python`"
    names = ("max_prompt_characters", "max_trace_bytes", "max_code_characters", "max_wall_s")
    return {
        "model": model,
        "model_problem": model_problem,
        "sandbox": tier,
        "sandbox_problem": tier_problem,
        "browser_python": pyodide,
        "browser_python_problem": None if pyodide else fetch,
        "viewer": (state.viewer / "index.html").is_file(),
        "limits": {name: getattr(state.settings, name) for name in names},
    }


# --- traces ---


@router.post("/trace", response_model=TraceAnswer)
async def make_trace(body: TraceBody, request: Request) -> Response:
    """Run a prompt with every tap open; the numbers wait at /trace/{id}.safetensors."""
    events = request.app.state.traces.make(body)
    if body.stream:
        return await lines(events)
    answer: dict[str, Any] = {}
    async for event in events:
        answer = event
    return JSONResponse(answer["trace"])


@router.get("/trace/{name}.safetensors", responses={206: {"description": "a part of the file"}})
async def trace_payload(name: str, request: Request) -> Response:
    """The tensors; `Range: bytes=A-B` gets a part, at the offsets of the manifest."""
    payload = request.app.state.traces.store.get(name).payload
    return ranged(payload, request.headers.get("range"))


@router.get("/trace/{name}.svg")
async def trace_svg(
    name: str,
    request: Request,
    layer: Annotated[int, Query(ge=0, le=500)] = 0,
    head: Annotated[int, Query(ge=0, le=500)] = 0,
) -> Response:
    """A simple picture: one head's pattern, the residual stream's size, the next tokens."""
    kept = request.app.state.traces.store.get(name)
    drawing = trace_picture(kept.answer, kept.traced.trace, layer, head)
    return Response(drawing, media_type="image/svg+xml")


@router.get("/trace/{name}", response_model=TraceAnswer)
async def trace_manifest(name: str, request: Request) -> JSONResponse:
    return JSONResponse(request.app.state.traces.store.get(name).answer)


@router.delete("/trace/{name}", status_code=204)
async def delete_trace(name: str, request: Request) -> Response:
    request.app.state.traces.store.delete(name)
    return Response(status_code=204)


# --- programs ---


async def run_lines(events: AsyncIterator[Any]) -> AsyncIterator[dict[str, Any]]:
    """The events of a run as lines to be sent, the outcome last."""
    async with aclosing(events) as open_events:  # type: ignore[type-var]
        async for item in open_events:
            if isinstance(item, Outcome):
                yield {"event": "end", "outcome": outcome_body(item)}
            else:
                yield item


@router.post("/run", response_model=RunAnswer)
async def run_code(body: RunBody, request: Request) -> Response:
    """Run a Python program in the sandbox. Leaving the request ends the program."""
    desk = request.app.state.runs
    desk.check(body.code, body.wall_s)
    if body.stream:
        return await lines(run_lines(desk.run_events(body.code, body.wall_s)))
    work = asyncio.create_task(desk.whole_run(body.code, body.wall_s))
    outcome = await while_connected(request, work)
    return Response(status_code=499) if outcome is None else JSONResponse(outcome_body(outcome))


async def while_connected(request: Request, work: "asyncio.Task[Outcome]") -> Outcome | None:
    """The outcome, or None when the client left first; then the program is ended."""

    async def client_left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = asyncio.create_task(client_left())
    try:
        await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        work.cancel()
        leaving.cancel()


# --- exercises ---


def exercise_of(request: Request, name: str) -> Any:
    """An exercise by its name. Raises NoFile."""
    found = request.app.state.exercises.get(name)
    if found is None:
        raise files.NoFile(f"no exercise {name!r:.80}: GET /exercises lists them", param="id")
    return found


@router.get("/exercises")
async def list_exercises(request: Request) -> list[dict[str, Any]]:
    """Every exercise without its checks and its solution."""
    return [exercise.public() for exercise in request.app.state.exercises.values()]


@router.get("/exercises/{name}/solution")
async def exercise_solution(name: str, request: Request) -> dict[str, str]:
    """One way to do it, for who wants to see it."""
    return {"solution": exercise_of(request, name).solution}


@router.get("/exercises/{name}")
async def one_exercise(name: str, request: Request) -> dict[str, Any]:
    return exercise_of(request, name).public()


@router.post("/exercises/{name}/check", response_model=CheckAnswer)
async def check_exercise(name: str, body: CheckBody, request: Request) -> dict[str, Any]:
    """Run the learner's code in one box and the solution in another, and compare the values."""
    exercise, state = exercise_of(request, name), request.app.state
    state.runs.check(body.code, 0)
    if name not in state.solved:
        state.solved[name] = await state.runs.whole_run(exercise.solution, 10.0, exercise.calls)
    learner = await state.runs.whole_run(body.code, 10.0, exercise.calls)
    return verdict(exercise, learner, state.solved[name])


# --- the checkout ---


@router.get("/graph")
async def code_graph(request: Request) -> dict[str, Any]:
    """The code map: files, functions, classes, concepts, and what joins them."""
    found: dict[str, Any] = await request.app.state.map.get()
    return found


@router.get("/source")
async def source(
    request: Request,
    path: Annotated[str, Query(max_length=500)],
    start: int = 1,
    end: int | None = None,
) -> dict[str, Any]:
    """Lines of one file of the checkout."""
    return await asyncio.to_thread(files.source_lines, request.app.state.root, path, start, end)


@router.get("/notes")
async def notes(request: Request) -> list[dict[str, Any]]:
    return files.note_names(request.app.state.root)


@router.get("/notes/{name}")
async def one_note(name: str, request: Request) -> dict[str, str]:
    """One note of the knowledge base, in Markdown."""
    return files.note(request.app.state.root, name)
