"""Listen, say where, and end cleanly. Called by scripts/chat_web.py.

Read: open_socket -> Protocol -> ChatServer -> serve.
Not covered: who opens a connection and sends no request at all; a proxy in front closes those.
"""

import asyncio
import errno
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from nanochat.serve.errors import AddressUnusable, ApiError

LINGER_S = 5.0  # how long a client may go on sending a body that was refused already
NOT_HTTP = (
    "this is no HTTP request: check its first line and its headers, 64 kB of them at most, none "
    "with control characters"
)


def open_socket(host: str, port: int) -> socket.socket:
    """A TCP socket bound to this address, not listening yet. Raises AddressUnusable.

    Called before the model is loaded, so that a taken port is told at once.
    """
    if not 0 <= port <= 65535:
        raise unusable(host, port, ValueError("a port is a number from 0 to 65535"))
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, proto)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise unusable(host, port, error) from None
    return bound


def unusable(host: str, port: int, error: Exception) -> AddressUnusable:
    """The sentence for an address that can't be opened, by the system's reason."""
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        reason = "another program listens there; stop it or choose another --port (0 finds one)"
    elif number == errno.EACCES:
        reason = "the system keeps this port for itself; choose a --port above 1023"
    else:
        reason = f"{error}; check --host and --port"
    return AddressUnusable(f"can't listen on {host} port {port}: {reason}")


def address_of(bound: socket.socket) -> str:
    """http://127.0.0.1:8000, or the brackets that an IPv6 address needs."""
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


class Protocol(H11Protocol):
    """uvicorn's HTTP, which also refuses in the API's shape what is none, and hangs up on a client
    that sends its body for ever after it was answered, or that does not take its answer."""

    cut_off: asyncio.TimerHandle | None = None  # runs while the client takes nothing

    def pause_writing(self) -> None:
        """Called when the client has left 64 kB lying; closing politely would wait for it too."""
        super().pause_writing()
        settings = self.config.app.state.settings  # type: ignore[union-attr]
        patience_s = getattr(settings, "slow_reader_s", LINGER_S)
        self.cut_off = self.loop.call_later(patience_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._spare()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._spare()

    def _spare(self) -> None:
        if self.cut_off is not None:
            self.cut_off.cancel()

    def send_400_response(self, msg: str) -> None:
        """Called for bytes that the app never gets to see, whatever uvicorn's `msg` says."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else an answer is on its way
            body = json.dumps(ApiError(NOT_HTTP).body()).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            start = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (start, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def on_response_complete(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:
            self.loop.call_later(LINGER_S, self._hang_up, self.cycle)
        super().on_response_complete()

    def _hang_up(self, answered: RequestResponseCycle) -> None:
        if self.cycle is answered and self.conn.their_state is h11.SEND_BODY:
            self.transport.abort()


class ChatServer(uvicorn.Server):
    """uvicorn that tells when it is ready, ends running answers, and leaves with exit code 0."""

    def __init__(self, app: FastAPI, on_ready: Callable[[], None]) -> None:
        quiet = uvicorn.Config(
            app,
            http=Protocol,
            log_config=None,  # the log is ours (nanochat/observe/logs.py)
            access_log=False,
            timeout_graceful_shutdown=1,  # for the last bytes; the answers have ended before
            lifespan="on",
        )
        super().__init__(quiet)
        self.app, self.on_ready = app, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Readiness goes off; answers in progress get `drain_s`, then an error event.

        The door stays open meanwhile: a load balancer shall read 503 from /readyz, and a late
        client an error that says when to come back, not a refused connection.
        """
        state = self.app.state
        await asyncio.to_thread(state.thread.stop, state.settings.drain_s)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the server; unlike uvicorn's, not the process with a signal."""
        caught = (signal.SIGINT, signal.SIGTERM)
        before = {sig: signal.signal(sig, self.handle_exit) for sig in caught}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


def serve(app: FastAPI, bound: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises AddressUnusable when the port was taken meanwhile."""
    host, port = bound.getsockname()[:2]
    try:
        bound.listen(128)
    except OSError as error:
        raise unusable(host, port, error) from None
    with suppress(KeyboardInterrupt):
        ChatServer(app, on_ready).run(sockets=[bound])
    if app.state.thread.alive():  # a step that does not end: Python would break off in its middle
        logging.shutdown()
        os._exit(0)
