"""Who may come in: the names this server goes by, other sites' pages, API keys, and how fast.

Pure ASGI, so that a stream passes through piece by piece. A key is kept and compared as its SHA-256
hash; every known hash is compared in constant time, so that the time tells nothing.
Called by chat_app.py. Read: Keys -> Bucket -> Gate -> host_allowed -> Cors.
Not covered: keys that expire, accounts, limits shared by several processes.
"""

import hashlib
import hmac
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.errors import UserError
from nanochat.serve.errors import ApiError, HostRefused, KeyRefused, Overloaded, TooFast

# Answered without a key: the page, what it shows before a key is typed in, and probes.
OPEN = {"/", "/health", "/livez", "/readyz", "/startupz", "/stats"}
LOCAL_NAMES = {"localhost", "127.0.0.1", "[::1]"}


class BadKeyFile(UserError):
    """The file of API keys can't be used."""


def hash_of(key: str) -> str:
    """The SHA-256 of a key. Keys are 256 random bits, so a slow hash would protect nothing more."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(path: Path) -> dict[str, str]:
    """{hash: name}; a line is `name hash`, lines that begin with # are for people."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadKeyFile(f"can't read the API keys: {error}") from None
    keys = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, digest = line.strip().partition(" ")
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise BadKeyFile(f"{path}, line {number}: expected `name sha256-in-hex`")
        keys[digest] = name
    if not keys:
        raise BadKeyFile(f"{path} holds no keys: make one with `nanochat api-key NAME`")
    return keys


def known(keys: dict[str, str], digest: str) -> str | None:
    """The name of the key with this hash; looks at all of them, whatever it finds."""
    found = None
    for each, name in keys.items():
        if hmac.compare_digest(each, digest):
            found = name
    return found


# @learn:production.rate_limiting
@dataclass
class Bucket:
    """Fills at `per_s` up to `size`; who finds too little comes too soon. `level` may be overdrawn
    from outside: an answer is paid when its length is known."""

    per_s: float
    size: float
    level: float
    filled_at: float

    def take(self, amount: float, now: float) -> float:
        """0 when there was so much (or anything, for 0) left, else the seconds until there is."""
        self.level = min(self.size, self.level + (now - self.filled_at) * self.per_s)
        self.filled_at = now
        needed = max(amount, 1e-9)
        if self.level < needed:
            return (needed - self.level) / self.per_s
        self.level -= amount
        return 0.0


@dataclass
class Rates:
    """The buckets of every key; without keys there is one for everybody."""

    requests_per_minute: float
    tokens_per_minute: float
    clock: Callable[[], float] = time.monotonic
    buckets: dict[tuple[str, str], Bucket] = field(default_factory=dict)

    def _bucket(self, who: str, what: str, per_minute: float) -> Bucket:
        key = who, what
        if key not in self.buckets:
            size = max(per_minute, 1.0)
            self.buckets[key] = Bucket(per_minute / 60, size, size, self.clock())
        return self.buckets[key]

    def check(self, who: str) -> None:
        """One more request. Raises TooFast."""
        for what, limit, amount in (
            ("tokens", self.tokens_per_minute, 0.0),
            ("requests", self.requests_per_minute, 1.0),
        ):
            if limit:
                wait_s = self._bucket(who, what, limit).take(amount, self.clock())
                if wait_s:
                    raise TooFast(
                        f"more than {limit:g} {what} a minute: try again in {wait_s:.1f} s",
                        max(1, math.ceil(wait_s)),
                    )

    def spend(self, who: str, tokens: int) -> None:
        """Take the tokens of an answer; the next request waits if that was too much."""
        if self.tokens_per_minute:
            bucket = self._bucket(who, "tokens", self.tokens_per_minute)
            bucket.take(0.0, self.clock())
            bucket.level -= tokens


class Gate:
    """Middleware: checks the Host, then the key, then the rate; puts the name of the key into
    scope["state"]["who"]. A refusal is an OpenAI error, 401 too."""

    def __init__(
        self,
        app: ASGIApp,
        hosts: set[str] | None,
        keys: dict[str, str],
        rates: Rates,
        refused: Callable[[str], None],
        check_room: Callable[[], None],
    ) -> None:
        """`hosts` None: any name will do. `check_room` raises Overloaded where there is none: who
        can't be answered is told before anything is read. `refused` is told the code of each
        refusal for its rate or for want of room, to be counted."""
        self.app, self.hosts, self.keys, self.rates = app, hosts, keys, rates
        self.refused, self.check_room = refused, check_room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            headers, path = Headers(scope=scope), scope["path"]
            if self.hosts is not None and not host_allowed(headers.get("host", ""), self.hosts):
                raise HostRefused(
                    "this server does not go by that name: use the address it printed, or start "
                    "it with --allowed-hosts"
                )
            who = "everyone"
            if self.keys and path not in OPEN and not path.startswith("/static/"):
                who = self.name_of(headers.get("authorization", ""))
            scope.setdefault("state", {})["who"] = who
            if scope["method"] == "POST":
                self.rates.check(who)
                self.check_room()
        except ApiError as error:
            if isinstance(error, TooFast | Overloaded):
                self.refused(error.code or "refused")
            return await refuse(error, send)
        await self.app(scope, receive, send)

    def name_of(self, authorization: str) -> str:
        """Whose key this is. Raises KeyRefused for none and for an unknown one."""
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise KeyRefused("no API key: send the header `Authorization: Bearer KEY`")
        name = known(self.keys, hash_of(key.strip()))
        if name is None:
            raise KeyRefused("this API key is not known here: check it, or ask for a new one")
        return name


async def refuse(error: ApiError, send: Send) -> None:
    """Answer with an error before the app has seen the request."""
    body = json.dumps(error.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    lines = [(k.lower().encode(), v.encode()) for k, v in (headers | error.headers()).items()]
    await send({"type": "http.response.start", "status": error.status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


def host_allowed(host: str, names: Iterable[str]) -> bool:
    """Is this Host header one of our names, with any port? Against DNS rebinding: a page of
    evil.example that points its name at this machine still says evil.example.

    >>> host_allowed("localhost:8000", LOCAL_NAMES), host_allowed("evil.example", LOCAL_NAMES)
    (True, False)
    """
    name, _, port = host.rpartition(":")
    if not name or not port.isdigit():
        name = host
    return name.lower() in names


def is_loopback(host: str) -> bool:
    """Can only this machine reach this address?"""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Cors:
    """Middleware: lets the pages of the sites named here, and of no others, read our answers."""

    def __init__(self, app: ASGIApp, origins: Iterable[str]) -> None:
        self.app, self.origins = app, frozenset(origin.rstrip("/") for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = Headers(scope=scope).get("origin") if scope["type"] == "http" else None
        if origin not in self.origins:
            return await self.app(scope, receive, send)
        assert origin is not None, "it is one of ours"

        async def send_with_leave(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Access-Control-Allow-Origin"] = origin
                headers["Cross-Origin-Resource-Policy"] = "cross-origin"
                headers.append("Vary", "Origin")
                headers["Access-Control-Expose-Headers"] = "X-Request-ID, Retry-After"
            await send(message)

        if scope["method"] != "OPTIONS":
            return await self.app(scope, receive, send_with_leave)
        lines = [
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", b"authorization, content-type, x-request-id"),
            (b"access-control-max-age", b"600"),
        ]
        await send_with_leave({"type": "http.response.start", "status": 204, "headers": lines})
        await send({"type": "http.response.body", "body": b""})
