"""Fetch Python for the browser (Pyodide, 14 MB) from npm, so that pages run code without a server.

Needs npm. The version and its checksum are in nanochat/serve/pyodide/package-lock.json; the files
come to pyodide/ where things are made, and the bridge serves them from this machine only.
"""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat.cli import parse, run
from nanochat.errors import UserError
from nanochat.paths import ROOT, base_dir

PINNED = ROOT / "nanochat" / "serve" / "pyodide"
NEEDED = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip")
MORE = ("pyodide-lock.json", "package.json")


class FetchFailed(UserError):
    """npm is missing, or could not get the package."""


@dataclass(frozen=True)
class BrowserPythonSettings:
    """Where to put it."""

    out: Path | None = None
    """Folder for the files; none: pyodide/ where things are made."""


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(BrowserPythonSettings, argv, "nanochat browser-python", __doc__)
    out = settings.out or base_dir() / "pyodide"
    if all((out / name).is_file() for name in NEEDED):
        print(f"already here: {out}")
        return 0
    if shutil.which("npm") is None:
        raise FetchFailed("npm is not installed: install Node 20 or newer, then repeat this")
    draft = out.with_name(out.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PINNED / name, draft / name)
    command = ["npm", "ci", "--prefix", str(draft), "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    package = draft / "node_modules" / "pyodide"
    if done.returncode or not all((package / name).is_file() for name in NEEDED):
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FetchFailed(f"npm could not fetch pyodide ({said}); try again with a connection")
    out.mkdir(parents=True, exist_ok=True)
    for name in (*MORE, *NEEDED):
        shutil.copy(package / name, out / name)
    shutil.rmtree(draft)
    print(f"Python for the browser is in {out}")
    return 0


if __name__ == "__main__":
    run(main)
