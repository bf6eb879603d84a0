"""What a client is told when a request can't be served: OpenAI's error body, one clear sentence.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

Raised by prompts.py, engine_thread.py and chat_app.py; turned into responses in chat_app.py.
Read: ApiError -> its subclasses -> explain_validation -> shown.
"""

from collections.abc import Sequence
from typing import Any

from nanochat.errors import UserError

ECHO_LIMIT = 80  # characters of a client's own words in an answer to it


class ApiError(UserError):
    """A refusal: an HTTP status, OpenAI's error type and code, the field at fault."""

    status = 400
    type = "invalid_request_error"
    code: str | None = None

    def __init__(self, message: str, param: str | None = None, **extra: Any) -> None:
        super().__init__(message)
        self.param = param
        self.extra = extra  # numbers a program can act on, beside OpenAI's four fields

    def body(self) -> dict[str, Any]:
        fields = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields | self.extra}

    def headers(self) -> dict[str, str]:
        return {}


class BadMessages(ApiError):
    """Too many messages, an empty one, a wrong order."""


class PromptTooLong(ApiError):
    """The conversation leaves no room for an answer in the model's context."""

    code = "context_length_exceeded"


class UnknownModel(ApiError):
    """The request names a model that isn't served here."""

    status = 404
    code = "model_not_found"


class TooLarge(ApiError):
    """More than one request may ask for."""

    status = 413
    code = "too_large"


class NotServed(ApiError):
    """The framework refused: no such path, wrong method, a body too large or too slow."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    def headers(self) -> dict[str, str]:
        # Who did not send a request to its end may not begin another on the same connection.
        return {"Connection": "close"} if self.status == 408 else {}


class Overloaded(ApiError):
    """The queue is full; `retry_after_s` comes from how long answers took so far."""

    status = 503
    type = "overloaded_error"
    code = "queue_full"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s

    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after_s)}


class Stopping(Overloaded):
    """The server was told to stop; another one, or the same a moment later, may answer."""

    code = "server_stopping"


class EngineFailed(ApiError):
    """The model failed inside; the reason is in the server's log, not in the answer."""

    status = 500
    type = "server_error"
    code = "engine_failed"


class NotNumbers(EngineFailed):
    """The scores of this answer were NaN or infinite."""

    code = "nan_logits"


class ServerFailed(ApiError):
    """A mistake of ours; what it was is in the server's log, not in the answer."""

    status = 500
    type = "server_error"
    code = "internal_error"


class TooLate(ApiError):
    """The answer was not complete within the server's limit of time."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"


class KeyRefused(ApiError):
    """No key, or one that is not known here."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class HostRefused(ApiError):
    """The request was sent to a name that this server does not go by."""

    status = 403
    type = "permission_error"
    code = "host_not_allowed"


class TooFast(Overloaded):
    """This key, or everyone without one, has used up its rate."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class AddressUnusable(UserError):
    """The server can't listen where it was told to."""


def explain_validation(errors: Sequence[Any]) -> ApiError:
    """The first of pydantic's findings as one sentence: which field, what is wrong, what was seen.

    >>> str(explain_validation([{"loc": ("body", "top_k"), "msg": "Input should be > 0",
    ...                          "type": "x", "input": -1}]))
    'top_k: Input should be > 0 (seen: -1)'
    """
    first = errors[0]
    where = [part for part in first["loc"][1:] if not str(part).startswith(("list[", "str"))]
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{shown(p)}" for p in where).lstrip(".")
    if first["type"] == "json_invalid":
        return ApiError(f"the body is not JSON: {first['ctx']['error']}")
    if first["type"] == "extra_forbidden":
        return ApiError(f"{path}: this server has no such field; leave it out", param=path)
    if not path:
        return ApiError("the body must be a JSON object with Content-Type: application/json")
    seen = "" if first["type"] == "missing" else f" (seen: {first['input']!r:.60})"
    return ApiError(f"{path}: {first['msg']}{seen}", param=path)


def shown(text: str) -> str:
    r"""A client's own words, fit to be sent back: short, and without what no screen shows.

    >>> shown("a\nb"), len(shown("x" * 900_000))
    ('a\\nb', 81)
    """
    cut = text if len(text) <= ECHO_LIMIT else text[:ECHO_LIMIT] + "…"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in cut)
