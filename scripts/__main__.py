"""The console command: `nanochat VERB ...` runs scripts/VERB.py, and --help lists every verb.

`nanochat base-train --depth 4` and `python -m scripts.base_train --depth 4` are the same function.
Read: verbs -> show_help -> load -> main.
"""

import ast
import importlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from nanochat.cli import run


def verbs() -> dict[str, str]:
    """Verb -> the first line of its script's docstring, read without importing anything."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem.replace("_", "-")] = doc.splitlines()[0] if doc else ""
    return found


def show_help() -> None:
    """Print every verb with the first line of its script."""
    print("usage: nanochat VERB [--help] [flags]\n\nverbs:")
    table = verbs()
    width = max(map(len, table))
    for verb, about in table.items():
        print(f"  {verb:<{width}}  {about}")


def load(verb: str) -> ModuleType:
    """Import a verb's script. Ctrl-C meanwhile ends the process at once.

    A half-imported library may swallow a KeyboardInterrupt, and there is nothing to save yet.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return importlib.import_module(f"scripts.{verb.replace('-', '_')}")
    finally:
        signal.signal(signal.SIGINT, before)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `nanochat` command. Never returns."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        show_help()
        sys.exit(0)
    if argv[0] not in verbs():
        print(f"nanochat: no verb '{argv[0]}'; `nanochat --help` lists them all", file=sys.stderr)
        sys.exit(2)
    run(lambda: load(argv[0]).main(argv[1:]))


if __name__ == "__main__":
    main()
