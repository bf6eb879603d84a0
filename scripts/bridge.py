"""Open a window into the model on this machine: traces, safe code runs, exercises, the code map.

Prints an address with a token in it; only who has that address can use the bridge. It listens on
127.0.0.1 alone. Ctrl-C ends it. `make up` starts one beside the chat server.
"""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from nanochat.cli import parse, run
from nanochat.device import use_threads
from nanochat.serve.bridge_app import create_app
from nanochat.serve.bridge_guard import mint_token
from nanochat.serve.bridge_server import open_loopback, serve_bridge, watch_parent
from nanochat.serve.bridge_settings import BridgeSettings
from nanochat.serve.server import address_of


@dataclass(frozen=True)
class Settings(BridgeSettings):
    """Flags of `nanochat bridge`."""

    beside: bool = False
    """Started by another server: end with it, and take a free port when this one is taken."""


def main(argv: Sequence[str] | None = None) -> None:
    settings = parse(Settings, argv, "nanochat bridge", __doc__)
    bound = open_loopback(settings.port, any_other=settings.beside)
    use_threads(0)
    token = mint_token()
    app = create_app(settings, token, bound.getsockname()[1])
    if settings.beside:
        watch_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    address = f"{address_of(bound)}/#token={token}"
    with suppress(KeyboardInterrupt):
        say = f"nanochat bridge is ready (look inside the model, run code): {address}"
        serve_bridge(app, bound, lambda: print(say, flush=True))


if __name__ == "__main__":
    run(main)
