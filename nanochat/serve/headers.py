"""What every request meets first: a limit on its size, and headers on every response.

Called by chat_app.py. The headers tell the browser what this page can never do: it needs no inline
script or style and no other host, so the policy allows none, and `require-trusted-types-for` throws
where text would become HTML. Read: POLICY -> SecurityHeaders -> BodyLimit.
"""

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.serve.errors import NotServed

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class SecurityHeaders:
    """Pure ASGI, so a stream passes through piece by piece."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                # The browser asks each time whether a file changed: an update shows at once.
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        await self.app(scope, receive, send_with_headers)


class BodyLimit:
    """Refuses a body that says it is too large; one that doesn't say is cut off by FastAPI."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self.app, self.limit_bytes = app, limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = Headers(scope=scope).get("content-length", "0") if scope["type"] == "http" else "0"
        if not size.isdecimal() or int(size) <= self.limit_bytes:  # h11 refuses what is no number
            return await self.app(scope, receive, send)
        refusal = NotServed(
            f"the body has {int(size):,} bytes, limit {self.limit_bytes:,}: send less", 413
        )
        await JSONResponse(refusal.body(), status_code=413)(scope, receive, send)
