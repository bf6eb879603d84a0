"""What a client may send to the bridge, and what it gets back: the shapes behind its OpenAPI page.

Called by bridge_app.py and its routes. A field that we don't know is refused by name.
Read: TraceBody -> RunBody -> CheckBody -> the answers.
"""

from typing import Any, Literal

from pydantic import BaseModel, Field

from nanochat.serve.schemas import Finite, Strict


class EditBody(Strict):
    """Set or scale an activation before the model goes on."""

    name: str
    op: Literal["set", "scale"]
    value: Finite
    positions: list[int] | None = None
    heads: list[int] | None = None
    keys: list[int] | None = None


class TraceBody(Strict):
    """The body of POST /trace. One of `prompt` and `token_ids`."""

    prompt: str | None = None
    token_ids: list[int] | None = Field(default=None, max_length=4096)
    chat: bool = False  # ask as in a conversation
    max_new_tokens: int = Field(default=0, ge=0, le=32)
    seed: int = Field(default=0, ge=0, lt=2**53)
    temperature: Finite = Field(default=0.0, ge=0, le=2)
    hooks: list[str] = Field(default=["*"], min_length=1, max_length=200)
    level: Literal["stats", "topk", "full"] = "full"
    positions: list[int] | None = Field(default=None, max_length=4096)
    topk: int = Field(default=8, ge=1, le=1024)
    dtype: Literal["f16", "f32"] = "f16"
    max_bytes: int = Field(default=8 << 20, ge=1)
    edits: list[EditBody] = Field(default=[], max_length=32)
    stream: bool = False  # NDJSON: a line for each step, then the whole answer


class RunBody(Strict):
    """The body of POST /run."""

    code: str
    wall_s: Finite = Field(default=5.0, gt=0)
    stream: bool = False  # NDJSON: output as it comes, then the outcome


class CheckBody(Strict):
    """The body of POST /exercises/{id}/check."""

    code: str


class ErrorFields(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every refusal has this shape."""

    error: ErrorFields


class TraceAnswer(BaseModel):
    """A trace's manifest, with what a page needs around it."""

    trace_id: str
    manifest: dict[str, Any]
    tokens: list[dict[str, Any]]  # id, text, bytes
    next_tokens: list[list[dict[str, Any]]]  # after each step: the likeliest, with chances
    warnings: list[str]


class RunAnswer(BaseModel):
    """What a program did, as seen from outside."""

    ended: str
    exit_code: int | None
    stdout: str
    stderr: str
    seconds: float
    memory_bytes: int
    tier: str
    pictures: list[str]  # PNG files in base64


class CheckAnswer(BaseModel):
    """Whether an exercise is solved; what was expected stays hidden."""

    passed: bool
    checks: list[dict[str, Any]]  # ok, message
    stdout: str
    stderr: str
    ended: str


class StatusAnswer(BaseModel):
    """What works here, and why the rest does not."""

    model: dict[str, Any] | None
    model_problem: str | None
    sandbox: str | None
    sandbox_problem: str | None
    browser_python: bool
    browser_python_problem: str | None
    viewer: bool
    limits: dict[str, Any]
