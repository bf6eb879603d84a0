"""Who is asking: the ids that tie a request's log line, its metrics and its trace together.

The middleware makes one RequestContext for each HTTP request and puts it into `current`; whatever
runs for that request in the event loop finds it there. Ids from outside are used only when they
are well formed: an id ends up in headers and logs, where a line break would forge an entry.
Called by middleware.py, generation.py and logs.py. Read: RequestContext -> read_context.
"""

import os
import random
import re
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanochat.observe.generation import Generation

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(slots=True)
class RequestContext:
    """One HTTP request. Ids are lower-case hex, as W3C Trace Context writes them."""

    request_id: str
    trace_id: str  # 32 digits, the caller's when it sent a traceparent
    span_id: str  # 16 digits: the span of this HTTP request
    parent_id: str = ""  # the caller's span, or "" when the trace begins here
    sampled: bool = True  # False: the caller asked that this trace is not recorded
    generations: list["Generation"] = field(default_factory=list)  # answers made for it


current: ContextVar[RequestContext | None] = ContextVar("nanochat_request", default=None)


@cache
def dice() -> random.Random:
    """For ids, which must differ but need not be secret; asking the system each time is slow."""
    return random.Random(os.urandom(32))


def new_span_id() -> str:
    return f"{dice().getrandbits(64):016x}"


# @learn:production.tracing
def read_context(headers: Iterable[tuple[bytes, bytes]]) -> RequestContext:
    """The context of a request with these (lower-case) ASGI headers.

    >>> sent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    >>> c = read_context([(b"x-request-id", b"order-66"), (b"traceparent", sent)])
    >>> c.request_id, c.trace_id[:4], c.parent_id[:4], c.sampled
    ('order-66', '4bf9', '00f0', True)
    >>> len(read_context([(b"x-request-id", b"two\\nlines")]).request_id)
    32
    """
    request_id = trace_id = parent_id = ""
    sampled = True
    for name, value in headers:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            request_id = value.decode("ascii")
        elif name == b"traceparent":
            trace_id, parent_id, sampled = read_traceparent(value)
    fresh = f"{dice().getrandbits(320):080x}"  # enough for all the ids we may need
    return RequestContext(
        request_id or fresh[:32],
        trace_id or fresh[32:64],
        fresh[64:],
        parent_id,
        sampled,
    )


def read_traceparent(value: bytes) -> tuple[str, str, bool]:
    """(trace id, parent span id, sampled) of a W3C traceparent; ("", "", True) if it is not one."""
    match = TRACEPARENT.fullmatch(value)
    if match is None:
        return "", "", True
    version, trace_id, parent_id, flags, more = match.groups()
    # Version ff is forbidden, version 00 has exactly four fields, ids of zeros mean "none".
    if version == b"ff" or (version == b"00" and more) or not trace_id.strip(b"0"):
        return "", "", True
    if not parent_id.strip(b"0"):
        return "", "", True
    return trace_id.decode(), parent_id.decode(), bool(int(flags, 16) & 1)
