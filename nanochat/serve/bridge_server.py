"""Run the bridge until Ctrl-C, or until the server that started it is gone.

Called by scripts/bridge.py; probes and tests run it in a thread.
Read: open_loopback -> serve_bridge -> watch_parent -> bridge_in_thread.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from nanochat.serve.bridge_settings import LOOPBACK
from nanochat.serve.errors import AddressUnusable
from nanochat.serve.server import ChatServer, open_socket, unusable

LOOK_EVERY_S = 1.0


class BridgeServer(ChatServer):
    """As the chat server, without an engine's thread to wait for."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await uvicorn.Server.shutdown(self, sockets)


def open_loopback(port: int, any_other: bool = False) -> socket.socket:
    """A socket on this machine only; with `any_other` a taken port is replaced by a free one."""
    try:
        bound = open_socket(LOOPBACK, port)
        bound.listen(128)
        return bound
    except (AddressUnusable, OSError) as error:
        if any_other:
            return open_loopback(0)
        raise unusable(LOOPBACK, port, error) if isinstance(error, OSError) else error from None


def serve_bridge(app: FastAPI, bound: socket.socket, on_ready: Callable[[], None]) -> None:
    BridgeServer(app, on_ready).run(sockets=[bound])


@contextmanager
def bridge_in_thread(app: FastAPI, bound: socket.socket) -> Iterator[None]:
    """The bridge on a socket while the block runs: for probes and tests."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def watch_parent(server_gone: Callable[[], None]) -> None:
    """Call `server_gone` once the process that started this one has ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY_S)
        server_gone()

    threading.Thread(target=watch, name="parent", daemon=True).start()
