"""Make an API key for the chat server: prints it once and appends its hash to a file.

`nanochat api-key anna --file keys.txt`, then `nanochat chat-web --api-keys-file keys.txt`. Whoever
reads the file learns no key. To withdraw a key, delete its line and start the server again.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nanochat.cli import parse, run
from nanochat.errors import UserError
from nanochat.serve.access import hash_of


class BadName(UserError):
    """The name would not be readable in the file or in a log."""


@dataclass(frozen=True)
class ApiKeySettings:
    """Whose key, and where its hash is kept."""

    name: Annotated[str, tyro.conf.Positional]
    """Whose key it is: letters, digits, dot, dash."""
    file: str = "api_keys.txt"
    """File of hashes that the server reads."""


def main(argv: Sequence[str] | None = None) -> None:
    settings = parse(ApiKeySettings, argv, "nanochat api-key", __doc__)
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", settings.name):
        raise BadName(f"{settings.name!r}: up to 64 letters, digits, dots and dashes")
    key = f"nc-{secrets.token_urlsafe(32)}"
    path = Path(settings.file)
    fresh = not path.exists()
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{settings.name} {hash_of(key)}\n")
    if fresh:
        path.chmod(0o600)
    print(key)


if __name__ == "__main__":
    run(main)
