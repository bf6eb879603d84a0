"""One request of a load test, timed: when it was sent, when each piece came, how it ended.

A small HTTP/1.1 client of our own, because the client shares the machine with the server it
measures: what it costs is taken from the result. One connection for each request, as a crowd makes.
Called by load_run.py. Read: Outcome -> ask -> read_head -> read_stream.
Not covered: https, redirects, compression; load tests speak to the server itself.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from nanochat.load_plan import Ask, BadLoad, LoadSettings

REJECTIONS = (429, 503)  # "not now", said in time: an overloaded server's right answer


@dataclass
class Outcome:
    """What became of one request. Times are seconds of time.perf_counter()."""

    sent_at: float
    status: int = 0  # of HTTP; 0 when there was no answer at all
    pieces: list[float] = field(default_factory=list)  # when each visible piece of text came
    ended_at: float = 0.0
    completion_tokens: int = 0
    finish_reason: str | None = None
    error: str = ""  # what went wrong, or ""
    left: bool = False  # the client left, as it was meant to
    retry_after_s: float = 0.0
    streamed: bool = True

    @property
    def rejected(self) -> bool:
        return self.status in REJECTIONS and not self.left

    @property
    def answered(self) -> bool:
        return self.status == 200 and not self.error and not self.left

    @property
    def ttft_s(self) -> float | None:
        return self.pieces[0] - self.sent_at if self.pieces and self.streamed else None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first."""
        if not self.answered or not self.streamed or self.completion_tokens < 2 or not self.pieces:
            return None
        return (self.pieces[-1] - self.pieces[0]) / (self.completion_tokens - 1)


class Target:
    """Where to send to, and what a request looks like on the wire."""

    def __init__(self, settings: LoadSettings, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise BadLoad(f"{url}: a load test needs an address such as http://127.0.0.1:8000")
        self.host, self.port = parts.hostname, parts.port or 80
        self.path, self.api_key = settings.path, settings.api_key
        self.timeout_s = settings.timeout_s

    def head(self, method: str, path: str, length: int) -> bytes:
        """The first lines of an HTTP request."""
        key = f"Authorization: Bearer {self.api_key}\r\n" if self.api_key else ""
        return (
            f"{method} {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\n{key}Content-Length: {length}\r\n\r\n"
        ).encode()

    def request(self, ask: Ask) -> bytes:
        """A whole HTTP request for one answer."""
        body: dict[str, Any] = {"max_tokens": ask.max_tokens, "seed": ask.seed, "temperature": 1}
        if self.path.endswith("/chat/completions"):
            system = [{"role": "system", "content": ask.system}] if ask.system else []
            body["messages"] = [*system, {"role": "user", "content": ask.text}]
        else:
            body["prompt"] = f"{ask.system} {ask.text}".strip()
        body["stream"] = ask.stream
        if ask.stream and self.path.startswith("/v1/"):
            body["stream_options"] = {"include_usage": True}
        data = json.dumps(body).encode()
        return self.head("POST", self.path, len(data)) + data


async def ask(target: Target, wish: Ask) -> Outcome:
    """Send it and read the answer to its end, or leave early as `wish` says. Never raises."""
    outcome = Outcome(time.perf_counter(), streamed=wish.stream)
    limit_s = target.timeout_s if wish.leave_after_s is None else wish.leave_after_s
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(limit_s):
            reader, writer = await asyncio.open_connection(target.host, target.port)
            writer.write(target.request(wish))
            await read_answer(reader, wish, outcome)
    except TimeoutError:
        if wish.leave_after_s is not None:
            outcome.left = True
        else:
            outcome.error = f"no end within {target.timeout_s:g} s"
    except (OSError, ValueError, KeyError, EOFError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    outcome.ended_at = time.perf_counter()
    if writer is not None:
        writer.transport.abort()  # at once, whatever is still under way
    return outcome


async def read_answer(reader: asyncio.StreamReader, wish: Ask, outcome: Outcome) -> None:
    """Read one streamed answer and note when each piece came."""
    outcome.status, headers = await read_head(reader)
    pieces = read_body(reader, headers)
    if outcome.status == 200 and "text/event-stream" in headers.get("content-type", ""):
        await read_stream(pieces, wish, outcome)
        return
    whole = b"".join([piece async for piece in pieces])
    outcome.retry_after_s = float(headers.get("retry-after", 0))
    if outcome.status == 200:
        answer = json.loads(whole)
        outcome.completion_tokens = answer["usage"]["completion_tokens"]
        outcome.finish_reason = answer["choices"][0]["finish_reason"]
    elif outcome.status not in REJECTIONS:
        outcome.error = f"HTTP {outcome.status}: {whole[:200].decode('utf-8', 'replace')}"


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """(status, headers by lower-case name)."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/"):
        raise ValueError(f"not an HTTP answer: {first!r:.60}")
    return int(rest.partition(" ")[0]), headers


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    """The body as it comes: chunked, of a known length, or until the connection ends."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        held, ended = b"", False
        while not ended:
            data = await reader.read(65536)
            if not data:
                raise EOFError("the connection ended in the middle of an answer")
            body, held, ended = unchunk(held + data)
            if body:
                yield body
    elif "content-length" in headers:
        yield await reader.readexactly(int(headers["content-length"]))
    else:
        while data := await reader.read(65536):
            yield data


def unchunk(held: bytes) -> tuple[bytes, bytes, bool]:
    r"""The whole chunks in front: what they carry, what is left over, and whether that was all.

    >>> unchunk(b"3\r\nabc\r\n2\r\nde\r\n4\r\nf"), unchunk(b"1\r\ng\r\n0\r\n\r\n")
    ((b'abcde', b'4\r\nf', False), (b'g', b'', True))
    """
    carried: list[bytes] = []
    start = 0
    while (line := held.find(b"\r\n", start)) >= 0:
        size = int(held[start:line].split(b";")[0], 16)
        end = line + 2 + size
        if len(held) < end + 2:
            break
        if not size:
            return b"".join(carried), b"", True
        carried.append(held[line + 2 : end])
        start = end + 2
    return b"".join(carried), held[start:], False


async def read_stream(pieces: AsyncIterator[bytes], wish: Ask, outcome: Outcome) -> None:
    """Server-sent events up to [DONE]; an end without it, or an error event, is an error."""
    held, done = b"", False
    async for piece in pieces:
        now = time.perf_counter()
        *events, held = (held + piece).split(b"\n\n")
        for event in events:
            if not event.startswith(b"data: "):
                continue  # a comment that keeps the connection alive
            if event == b"data: [DONE]":
                done = True
            else:
                note(json.loads(event[6:]), now, outcome)
        if wish.leave_after_tokens is not None and len(outcome.pieces) >= wish.leave_after_tokens:
            outcome.left = True
            return
    if not done and not outcome.error:
        raise EOFError("the stream ended without [DONE]")


def note(event: dict[str, Any], now: float, outcome: Outcome) -> None:
    """Take from one event what a load test wants to know."""
    if "error" in event:
        outcome.error = str(event["error"].get("code") or event["error"].get("message"))
        return
    if event.get("usage"):
        outcome.completion_tokens = event["usage"]["completion_tokens"]
    for choice in event.get("choices", ()):
        delta = choice.get("delta") or {"text": choice.get("text")}
        if any(value for name, value in delta.items() if name != "role"):
            outcome.pieces.append(now)
        outcome.finish_reason = choice.get("finish_reason") or outcome.finish_reason


async def get(target: Target, path: str) -> tuple[int, bytes]:
    """A plain GET, for /livez and /metrics; status 0 when nobody answers."""
    with suppress(OSError, EOFError, ValueError, TimeoutError):
        async with asyncio.timeout(target.timeout_s):
            reader, writer = await asyncio.open_connection(target.host, target.port)
            try:
                writer.write(target.head("GET", path, 0))
                status, headers = await read_head(reader)
                return status, b"".join([piece async for piece in read_body(reader, headers)])
            finally:
                writer.transport.abort()
    return 0, b""
