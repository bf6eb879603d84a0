"""What every request meets first: limits on its body, and headers on every response.

Called by chat_app.py. The headers tell the browser what this page can never do: it needs no inline
script or style and no other host, so the policy allows none, and `require-trusted-types-for` throws
where text would become HTML. Read: POLICY -> SecurityHeaders -> BodyLimit.
"""

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    """Stops reading a body that grows too large, whether it told its size or not, or is not
    complete in time, whether its pieces stop or only trickle."""

    def __init__(self, app: ASGIApp, limit_bytes: int, limit_s: float = 10.0) -> None:
        self.app, self.limit_bytes, self.limit_s = app, limit_bytes, limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size_bytes, complete = 0, False
        begun_at = asyncio.get_running_loop().time()

        async def limited() -> Message:
            nonlocal size_bytes, complete
            if complete:
                return await receive()  # what waits for the client to leave may wait
            try:
                async with asyncio.timeout_at(begun_at + self.limit_s):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"the body was not complete after {self.limit_s:g} s: send it faster"
                ) from None
            complete = not message.get("more_body", False)
            size_bytes += len(message.get("body", b""))
            if size_bytes > self.limit_bytes:
                # The one exception that FastAPI lets through while it reads a body.
                raise HTTPException(413, f"the body is over {self.limit_bytes:,} bytes: send less")
            return message

        await self.app(scope, limited, send)
