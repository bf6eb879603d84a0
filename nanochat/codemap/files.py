"""Find and read the files of a repository, whatever state it is in; what can't be read is named.

Called by build.py. Nothing here raises for a bad file: it becomes a Problem and the rest goes on.
Read: Problem -> find_files -> read_text.
Not covered: a symbolic link that leaves the repository is named and not followed.
"""

import codecs
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NOT_SOURCE = {"__pycache__", "node_modules", "site-packages"}  # below the root, not the root itself
MADE_AT_THE_ROOT = {"build", "dist"}
SUFFIXES = (".py", ".md")
ENCODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")  # as PEP 263 has it


@dataclass(frozen=True)
class Problem:
    """Something wrong in one place: told, counted, and no reason to stop."""

    kind: str  # symlink | unreadable | too_large | encoding | syntax | tag
    file: str
    line: int
    text: str


def find_files(root: Path) -> tuple[list[str], list[Problem]]:
    """Every .py and .md file under `root` as sorted posix paths, each real file once.

    Skips hidden folders, virtual environments and what package managers and builds leave behind.
    """
    found: list[str] = []
    problems: list[Problem] = []
    seen: set[tuple[int, int]] = set()
    base = root.resolve()
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in seen:
                problems.append(Problem("symlink", folder, 0, "leads to a folder already read"))
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            problems.append(Problem("unreadable", folder or ".", 0, error.strerror or str(error)))
            continue
        later = []  # links come after real folders, so that a loop is named where it is a link
        for entry in entries:
            rel = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_symlink():
                broken = check_link(root / rel, base)
                if broken:
                    if entry.name.endswith(SUFFIXES) or not (root / rel).is_file():
                        problems.append(Problem("symlink", rel, 0, broken))
                    continue
            if entry.is_dir():
                if is_source(rel, root):
                    later.append(rel)
            elif entry.name.endswith(SUFFIXES) and entry.is_file():
                found.append(rel)
        links = [rel for rel in later if (root / rel).is_symlink()]
        waiting = links + waiting + [rel for rel in reversed(later) if rel not in links]
    return sorted(found), problems


def check_link(path: Path, base: Path) -> str:
    """Why a symbolic link is not followed; '' when it is."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # a link to itself is an OSError or a RuntimeError by version
        return "leads nowhere, or round in a circle"
    return "" if target.is_relative_to(base) else "leads out of the repository"


def is_source(rel: str, root: Path) -> bool:
    """Whether a folder may hold what people wrote."""
    name = rel.rpartition("/")[2]
    if name.startswith(".") or name in NOT_SOURCE or name.endswith(".egg-info"):
        return False
    return rel not in MADE_AT_THE_ROOT and not (root / rel / "pyvenv.cfg").exists()


def read_bytes(root: Path, rel: str, limit_bytes: int) -> tuple[bytes, Problem | None]:
    """The content of a file, or nothing and why."""
    try:
        size = os.stat(root / rel).st_size
        if size > limit_bytes:
            text = f"{size:,} bytes, the limit is {limit_bytes:,}: not read"
            return b"", Problem("too_large", rel, 0, text)
        return (root / rel).read_bytes(), None
    except OSError as error:
        return b"", Problem("unreadable", rel, 0, error.strerror or str(error))


def decode(rel: str, raw: bytes) -> tuple[str, Problem | None]:
    """Bytes -> text with \\n line ends, by byte order mark or declared encoding, else UTF-8.

    Text that is not what it claims is read as Latin-1, which takes any byte, and named.
    """
    if raw.startswith(codecs.BOM_UTF8):
        raw, name = raw[len(codecs.BOM_UTF8) :], "utf-8"
    else:
        name = next(declared_encoding(raw), "utf-8") if rel.endswith(".py") else "utf-8"
    problem = None
    try:
        text = raw.decode(name)
    except (UnicodeDecodeError, LookupError):
        problem = Problem("encoding", rel, 0, f"is not {name}; read as latin-1")
        text = raw.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n"), problem


def declared_encoding(raw: bytes) -> Iterator[str]:
    """What a `coding:` comment in the first two lines says."""
    for line in raw.split(b"\n", 2)[:2]:
        match = ENCODING.match(line)
        if match:
            yield match.group(1).decode("ascii")
