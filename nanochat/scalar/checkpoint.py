"""Save and load a run so that a reader sees the old state or the new one, never half of one.

A checkpoint is a folder <run>/step_000250/ with
    arrays.safetensors   weights by name, optimizer state, losses so far: float64
    state.json           settings, vocabulary, data hash, random streams, position in the data
    manifest.json        the SHA-256 of both
written under another name, flushed to the disk, then renamed. No pickle, no library: the
safetensors format is a length, a table of contents in JSON, and the numbers.
Read: pack -> unpack -> save -> load -> newest.
"""

import hashlib
import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.scalar.errors import ScalarError

ARRAYS, STATE, MANIFEST = "arrays.safetensors", "state.json", "manifest.json"
KEEP = 2  # checkpoints of a run that stay


class NoCheckpoint(ScalarError):
    """There is no checkpoint where one was asked for."""


class BrokenCheckpoint(ScalarError):
    """A checkpoint does not match its checksums, or another run's data."""


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Float64 arrays as a safetensors file."""
    table, at = {}, 0
    for name, array in arrays.items():
        size = array.size * 8
        span = [at, at + size]
        table[name] = {"dtype": "F64", "shape": list(array.shape), "data_offsets": span}
        at += size
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)  # the numbers begin at a multiple of 8 bytes
    numbers = (np.ascontiguousarray(array, "<f8").tobytes() for array in arrays.values())
    return struct.pack("<Q", len(header)) + header + b"".join(numbers)


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file of float64."""
    (length,) = struct.unpack_from("<Q", data)
    table = json.loads(data[8 : 8 + length])
    found = {}
    for name, entry in table.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        found[name] = np.frombuffer(data[begin:end], "<f8").reshape(entry["shape"]).copy()
    return found


def write_durably(path: Path, data: bytes) -> None:
    """Write and wait until the disk has it."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by `text`; on any error the old file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        write_durably(draft, text.encode())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def save(run: Path, step: int, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> Path:
    """Write <run>/step_<step>; then drop all but the newest KEEP."""
    run.mkdir(parents=True, exist_ok=True)
    for leftover in run.glob(".writing-*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    final = run / f"step_{step:06d}"
    draft = run / f".writing-{os.getpid()}-{final.name}"
    files = {ARRAYS: pack(arrays), STATE: json.dumps(dict(state) | {"step": step}).encode()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files[MANIFEST] = json.dumps(digests, indent=1).encode()
    try:
        draft.mkdir()
        for name, data in files.items():
            write_durably(draft / name, data)
        sync_folder(draft)
        if final.exists() and _is_whole(final):
            return final  # the same run came to this step before: the same bits
        if final.exists():
            shutil.rmtree(final)
        draft.rename(final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # a full disk leaves the old ones alone
    sync_folder(run)
    for old in steps_of(run)[:-KEEP]:
        shutil.rmtree(old)
    return final


def _is_whole(folder: Path) -> bool:
    try:
        load(folder)
    except BrokenCheckpoint:
        return False
    return True


def steps_of(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [path for path in run.glob("step_*") if re.fullmatch(r"step_\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def load(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and state of one checkpoint, after checking every byte."""
    try:
        digests = json.loads((folder / MANIFEST).read_bytes())
        files = {name: (folder / name).read_bytes() for name in (ARRAYS, STATE)}
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(f"{folder} is not a whole checkpoint ({error})") from None
    for name, data in files.items():
        if digests.get(name) != hashlib.sha256(data).hexdigest():
            raise BrokenCheckpoint(f"{folder / name} was changed after it was saved: train again")
    return unpack(files[ARRAYS]), json.loads(files[STATE])


def newest(place: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The newest whole checkpoint of a run's folder, or the one that `place` itself is."""
    if (place / MANIFEST).exists():
        return load(place)
    broken = None
    for folder in reversed(steps_of(place)):
        try:
            return load(folder)
        except BrokenCheckpoint as error:
            print(f"scalar: {error}; trying an older one", file=sys.stderr)
            broken = error
    raise broken or NoCheckpoint(f"no checkpoint in {place}: run nanochat scalar train first")


def start_anew(run: Path) -> None:
    """Move an older run of that name to <run>.previous, which goes."""
    if not steps_of(run):
        return
    previous = run.with_name(f"{run.name}.previous")
    shutil.rmtree(previous, ignore_errors=True)
    run.rename(previous)
