"""Stop the chat server that `make up` left running (`make down`)."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.cli import parse, run
from nanochat.paths import base_dir
from nanochat.server_process import stop_server


@dataclass(frozen=True)
class DownSettings:
    """Nothing to set: the server is found by its pid file."""


def main(argv: Sequence[str] | None = None) -> int:
    parse(DownSettings, argv, "nanochat down", __doc__)
    pid = stop_server(base_dir())
    print(f"stopped the chat server (process {pid})" if pid else "no chat server was running")
    return 0


if __name__ == "__main__":
    run(main)
