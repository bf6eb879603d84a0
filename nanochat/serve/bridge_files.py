"""What the bridge shows of the checkout: source lines, notes, the code map, the guide.

Called by bridge_app.py. Only files that git knows, or would know, are shown: never .git, never
what was made, never a path that leaves the checkout. Read: source_lines -> inside -> graph.
"""

import json
import re
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from nanochat.serve.errors import ApiError

MAX_SOURCE_BYTES = 600_000
NOTE_NAME = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")


class NoFile(ApiError):
    """Not one of the files that are shown."""

    status = 404
    code = "no_such_file"


@lru_cache(maxsize=4)
def shown_files(root: Path) -> frozenset[str]:
    """Paths of the checkout's text files. Without git, those of its source folders."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        names = listed.stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        folders = ("nanochat", "scripts", "docs", "tests", "dev", "tracks")
        found = [path for name in folders for path in (root / name).rglob("*") if path.is_file()]
        names = [path.relative_to(root).as_posix() for path in [*found, *root.glob("*.py")]]
    return frozenset(name for name in names if not name.startswith(".env"))


def inside(root: Path, name: str) -> Path:
    """The file, if it is one that may be shown. Raises NoFile."""
    path = root / name
    if name not in shown_files(root) or path.is_symlink() or not path.is_file():
        raise NoFile(f"no source file {name!r:.120} in this checkout", param="path")
    return path


def source_lines(root: Path, name: str, start: int, end: int | None) -> dict[str, Any]:
    """Lines `start` to `end`, counted from 1, both shown."""
    path = inside(root, name)
    if path.stat().st_size > MAX_SOURCE_BYTES:
        raise NoFile(f"{name} is over {MAX_SOURCE_BYTES:,} bytes: open it in an editor")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise NoFile(f"{name} is no text", param="path") from None
    last = len(lines) if end is None else min(end, len(lines))
    if start < 1 or start > last + 1:
        raise ApiError(f"lines {start} to {end}: {name} has {len(lines)}", param="start")
    return {
        "path": name,
        "start": start,
        "end": last,
        "of": len(lines),
        "lines": lines[start - 1 : last],
    }


def note_names(root: Path) -> list[dict[str, Any]]:
    """Every note: id, title, cluster, prerequisites."""
    found = []
    for path in sorted((root / "docs" / "knowledge_base").glob("*.*.md")):
        head = path.read_text(encoding="utf-8").split("---\n", 2)
        fields = dict(line.split(": ", 1) for line in head[1].splitlines() if ": " in line)
        before = re.findall(r"[\w.]+", fields.get("prerequisites", ""))
        found.append(
            {
                "id": path.stem,
                "title": fields.get("title", path.stem),
                "cluster": fields.get("cluster", path.stem.split(".")[0]),
                "prerequisites": before,
            }
        )
    return found


def note(root: Path, name: str) -> dict[str, str]:
    """A note of the knowledge base. Raises NoFile."""
    path = root / "docs" / "knowledge_base" / f"{name}.md"
    if NOTE_NAME.fullmatch(name) is None or not path.is_file():
        raise NoFile(f"no note {name!r:.80}: GET /notes lists them", param="id")
    return {"id": name, "markdown": path.read_text(encoding="utf-8")}


def graph(path: Path) -> dict[str, Any]:
    """The code map. Raises NoFile with the command that makes it."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError) as error:
        raise NoFile(
            f"no code map yet: make it with `nanochat map build` ({type(error).__name__})"
        ) from error
