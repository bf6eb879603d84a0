"""How every script meets its user: flags from a dataclass, mistakes in one sentence.

`parse` turns a frozen dataclass into flags (the library tyro reads the fields' comments as help);
`run` is the outermost handler: it prints a UserError and exits with 2, and answers Ctrl-C with 130.
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from nanochat.errors import UserError
from nanochat.launch import leave, speaks_first

S = TypeVar("S")


def parse(settings: type[S], argv: Sequence[str] | None, prog: str, about: str | None) -> S:
    """Flags -> an instance of the dataclass `settings`. An unknown flag exits with 2 and a hint."""
    return tyro.cli(settings, args=argv, prog=prog, description=about)


def run(main: Callable[[], int | None]) -> None:
    """Call a script's main and leave the process with its exit code. Never returns.

    Of several processes of one run only the first to fail says why.
    """
    try:
        code = main() or 0
    except UserError as error:
        complain(str(error))
        code = 2
    except BrokenPipeError:  # `nanochat ... | head` has read enough
        sys.stderr.close()
        code = 1
    except OSError as error:
        complain(explain_os_error(error))
        code = 1
    except KeyboardInterrupt:
        complain("stopped by Ctrl-C; what was saved is kept")
        code = 130
    leave(code)


def complain(sentence: str) -> None:
    if speaks_first():
        print(f"nanochat: {sentence}", file=sys.stderr, flush=True)


def explain_os_error(error: OSError) -> str:
    """A full disk or a missing file in a sentence: what the system said, and where."""
    where = f" ({error.filename})" if error.filename else ""
    remedy = "; free some space and run the same command again" if error.errno == 28 else ""
    return f"{error.strerror or error}{where}{remedy}"


def print_json(record: dict[str, Any]) -> None:
    """The last line of a command run with --json: one JSON object."""
    print(json.dumps(record, sort_keys=True, allow_nan=False), flush=True)
