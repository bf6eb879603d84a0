"""Who may talk to the bridge: nobody but a page of ours, or somebody who holds the token.

Any website in the learner's browser can send requests to this machine, and a name that an attacker
owns can be made to point here (DNS rebinding). Three locks, all of which must open:
  Host    exactly 127.0.0.1:PORT or localhost:PORT. A rebound name sends its own.
  Origin  exactly one of ours; required on whatever changes something. `null` is nobody.
  Token   256 bits minted at start, `Authorization: Bearer ...`. It travels in the address's
          fragment, which browsers never send, and there are no cookies to ride on.
Called by bridge_app.py. Read: PUBLIC -> Guard -> refusal -> page_headers.
"""

import hmac
import secrets
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.serve.errors import ApiError

SAFE = ("GET", "HEAD")
# Files that hold no secret and do nothing; everything else needs the token.
PUBLIC_PATHS = ("/", "/start", "/guide", "/box", "/openapi.json", "/health")
PUBLIC_FOLDERS = ("/static/", "/shared/", "/pyodide/", "/assets/")


class Refused(ApiError):
    """One of the locks stayed shut."""

    type = "permission_error"

    def __init__(self, message: str, code: str, status: int = 403) -> None:
        super().__init__(message)
        self.code, self.status = code, status


def mint_token() -> str:
    """256 bits from the system, never written to a file."""
    return secrets.token_urlsafe(32)


class Guard:
    """Pure ASGI, outermost: what it refuses reaches no route and no body is read."""

    def __init__(self, app: ASGIApp, token: str, port: int, origins: Iterable[str]) -> None:
        self.app, self.token = app, token.encode()
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self.origin = f"http://127.0.0.1:{port}"
        self.origins = {f"http://{host}" for host in self.hosts} | set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # no websockets here
            return await self.app(scope, receive, send) if scope["type"] == "lifespan" else None
        error = self.refusal(scope)
        headers = page_headers(scope["path"], self.origin)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in headers.items():
                    found[name] = value
                found.setdefault("Cache-Control", "no-store")
            await send(message)

        if error is not None:
            response = JSONResponse(error.body(), status_code=error.status)
            return await response(scope, receive, send_with_headers)
        await self.app(scope, receive, send_with_headers)

    def refusal(self, scope: Scope) -> Refused | None:
        """The first lock that stays shut, or None."""
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            shown = ", ".join(hosts)[:80]
            return Refused(f"this is not {shown!r}: open the printed address", "wrong_host", 421)
        origins = headers.getlist("origin")
        foreign = any(origin not in self.origins for origin in origins) or len(origins) > 1
        if foreign and not path.startswith("/pyodide/"):  # the box's own origin is null
            return Refused("pages of other origins may not use this server", "wrong_origin")
        if method in SAFE and is_public(path):
            return None
        if method not in SAFE and not origins:
            sentence = "a request that does something says where it comes from: send Origin"
            return Refused(f"{sentence}: {self.origin}", "origin_missing")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin", "same-site"):
            return Refused("pages of other origins may not use this server", "wrong_origin")
        kind, _, sent = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(sent.encode(), self.token):
            return Refused(
                "the token is missing or wrong: open the address that `nanochat bridge` printed, "
                "or send Authorization: Bearer TOKEN",
                "bad_token",
                401,
            )
        body_kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and body_kind != "application/json":
            return Refused("send Content-Type: application/json", "not_json", 415)
        return None


def is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDERS)


COMMON = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def page_headers(path: str, origin: str) -> dict[str, str]:
    """What the browser may do with this answer; the two looser pages hold no token."""
    if path.startswith("/pyodide/"):  # read from the box, whose origin is nobody's
        open_to_box = {"Cross-Origin-Resource-Policy": "cross-origin"}
        return COMMON | open_to_box | {"Access-Control-Allow-Origin": "*"}
    if path == "/box":
        from_here = f"{origin}/pyodide/ {origin.replace('127.0.0.1', 'localhost')}/pyodide/"
        policy = (
            "sandbox allow-scripts; default-src 'none'; worker-src blob:; "
            f"script-src 'unsafe-inline' 'wasm-unsafe-eval' blob: {from_here}; "
            f"connect-src {from_here}; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
        )
    elif path == "/guide":  # one file with everything in it, which asks nobody for anything
        policy = (
            "default-src 'none'; script-src 'unsafe-inline' blob:; worker-src blob:; "
            "style-src 'unsafe-inline'; img-src data: blob:; connect-src 'none'; "
            "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
        )
    else:
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
            "img-src 'self' data: blob:; connect-src 'self'; frame-src 'self'; worker-src 'self'; "
            "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
            "require-trusted-types-for 'script'; trusted-types 'none'"
        )
    return COMMON | {"Content-Security-Policy": policy}
