"""Write a file whole or not at all: a reader sees the old one or the new one, never a half.

Called by whatever keeps a small file that a later command depends on: report.py, stages.py.
"""

import os
from pathlib import Path


# @learn:systems.checkpoints
def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content`; on any error (a full disk, a kill) the old file stays."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_durably(temporary, data)  # on the disk before the name points to it
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Write and wait until the disk has it; a power cut in between leaves a half."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
