"""A trace as two files: NAME.safetensors with the numbers, NAME.json that says what they are.

Called by trace.py (`capture`), engine_trace.py and serve/ (`save_trace`, `read_trace`). The
TypeScript reader is docs/viewer/src/trace/reader.ts; both read the vectors in tests/data/trace.
Read: Record -> Step -> capture -> trace_numbers.py (measured) -> budget -> Captured.written
-> Trace -> save_trace.

`capture` takes what a trace is made of from the model's tensors: figures, and numbers in the
file's format. Words, checksum and JSON come afterwards (`written`), outside of the model's time.

The manifest holds no time and no date: the same seed gives the same bytes. Tensors are named
"STEP/NAME"; with top-k, "STEP/NAME#index" (I32) tells which entries of the last axis were kept.
Over the byte budget the newest positions are kept; if even one is too large, its largest entries.
Statistics are always of the whole tensor, whatever was kept of it.
"""

import functools
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, Literal

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from nanochat.atomic import write_atomically
from nanochat.errors import UserError
from nanochat.paths import ROOT
from nanochat.trace_names import axes_of
from nanochat.trace_numbers import measured, stats_of

SCHEMA = 1
Level = Literal["stats", "topk", "full"]
FORMATS = {"f16": (torch.float16, "F16", 2), "f32": (torch.float32, "F32", 4)}
FALLBACK_K = (64, 32, 16, 8, 4, 2, 1)
Json = dict[str, Any]
NO_INDEX = torch.zeros(0, dtype=torch.int32)


class BudgetTooSmall(UserError):
    """Not even one entry of each vector fits."""


class BadTrace(UserError):
    """The files are not a trace, or not whole."""


@dataclass(slots=True)
class Record:
    """One activation, as it passed a tap."""

    name: str
    tensor: Tensor  # (1, ...): the axes of its name after the row's
    code: CodeType  # where the tap stands
    line: int


@dataclass
class Step:
    """One forward pass: the prompt, or one more token."""

    start: int  # position of its first token in the whole text
    tokens: list[int]
    records: list[Record]
    positions: list[int] | None = None  # the ones that were chosen; None: all


@dataclass(frozen=True)
class Trace:
    """A manifest and the tensors it speaks of, in fp32."""

    manifest: Json
    payload: bytes  # the safetensors file
    tensors: dict[str, Tensor]

    def tensor(self, name: str, step: int = 0) -> Tensor:
        """What was kept of one activation; entries that were not kept are nan."""
        entry = self.entry(name, step)
        if f"{step}/{name}" not in self.tensors:
            raise BadTrace(f"of {name} in step {step} only statistics were kept")
        values = self.tensors[f"{step}/{name}"].float()
        index = self.tensors.get(f"{step}/{name}#index")
        if index is None:
            return values
        whole = torch.full((*values.shape[:-1], entry["shape"][-1]), float("nan"))
        return whole.scatter_(-1, index.long(), values)

    def entry(self, name: str, step: int = 0) -> Json:
        """What the manifest says of one tensor. Raises BadTrace."""
        for entry in self.manifest["tensors"]:
            if entry["name"] == name and entry["step"] == step:
                return entry
        raise BadTrace(f"this trace has no {name} in step {step}")

    def joined(self, name: str) -> Tensor:
        """All steps of an activation one after the other, along T."""
        steps = range(len(self.manifest["steps"]))
        return torch.cat([self.tensor(name, step) for step in steps], dim=axes_of(name).index("T"))


@dataclass(frozen=True)
class Captured:
    """The numbers of a trace, copied out of the model's tensors and not yet described."""

    steps: list[Step]
    level: Level
    label: str  # how safetensors calls the format
    figures: Any  # (tensors, 7), see trace_numbers.py
    kept: "Kept"

    def written(self, about: Json) -> Trace:
        """Manifest, safetensors bytes and tensors. `about` goes into the manifest."""
        kept = self.kept
        payload, offsets, tensors = payload_of(kept, self.label)
        records = [(i, record) for i, step in enumerate(self.steps) for record in step.records]
        entries: list[Json] = []
        rows = self.figures.tolist()
        for (i, record), row, truncated in zip(records, rows, kept.truncated, strict=True):
            stats = stats_of(row, record.tensor.numel())
            entry = describe(i, record, stats) | {"truncated": truncated}
            place = offsets.get(f"{i}/{record.name}")
            entry["dtype"] = self.label if place else None
            entry["offset"] = place[0] if place else None  # in the file, for a range request
            entry["nbytes"] = place[1] - place[0] if place else 0
            entries.append(entry)
        manifest: Json = {
            "schema_version": SCHEMA,
            **about,
            "level": self.level,
            "steps": [
                {"start": step.start, "tokens": step.tokens, "positions": step.positions}
                for step in self.steps
            ],
            "tensors": entries,
            "payload": {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()},
        }
        return Trace(manifest, payload, tensors)


@dataclass(frozen=True)
class Kept:
    """What goes into the file: values end to end, indices end to end, and whose they are."""

    values: Tensor
    shapes: dict[str, tuple[int, ...]]
    index: Tensor  # int32
    index_shapes: dict[str, tuple[int, ...]]
    truncated: list[Json | None]  # one for each record


def capture(steps: list[Step], level: Level, dtype: str, max_bytes: int, topk: int) -> Captured:
    """Copy figures and numbers out of the model's tensors. Raises BudgetTooSmall."""
    kind, label, size = FORMATS[dtype]
    records = [(i, record) for i, step in enumerate(steps) for record in step.records]
    tensors = [record.tensor for _, record in records]
    allowed, k = (None, None) if level == "stats" else budget(steps, size, max_bytes, level, topk)
    if allowed is not None or k is not None:
        kept, copy = cut_all(steps, allowed, k, kind), None
    elif level == "stats":
        kept, copy = Kept(torch.zeros(0, dtype=kind), {}, NO_INDEX, {}, [None] * len(records)), None
    else:
        copy = torch.empty(sum(x.numel() for x in tensors), dtype=kind)
        shapes = {f"{i}/{record.name}": tuple(record.tensor.shape[1:]) for i, record in records}
        kept = Kept(copy, shapes, NO_INDEX, {}, [None] * len(records))
    return Captured(steps, level, label, measured(tensors, copy), kept)


def cut_all(steps: list[Step], allowed: set[int] | None, k: int | None, kind: torch.dtype) -> Kept:
    """The part of each tensor that the budget leaves."""
    values, index = dict[str, Tensor](), dict[str, Tensor]()
    truncated: list[Json | None] = []
    for i, step in enumerate(steps):
        for record in step.records:
            part, said = cut(record, positions_of(step), allowed, k)
            values[f"{i}/{record.name}"], places = largest(part, k)
            truncated.append(said)
            if places is not None:
                index[f"{i}/{record.name}#index"] = places
    return Kept(
        end_to_end(values, kind),
        {name: tuple(x.shape) for name, x in values.items()},
        end_to_end(index, torch.int32),
        {name: tuple(x.shape) for name, x in index.items()},
        truncated,
    )


def end_to_end(tensors: dict[str, Tensor], kind: torch.dtype) -> Tensor:
    flat = [x.reshape(-1).to(kind).cpu() for x in tensors.values()]
    return torch.cat(flat) if flat else torch.zeros(0, dtype=kind)


def describe(step: int, record: Record, stats: Json) -> Json:
    """One tensor's row of the manifest: its shape, its figures, the line that made it."""
    shown = shown_path(record.code.co_filename)
    return {
        "name": record.name,
        "step": step,
        "shape": list(record.tensor.shape[1:]),
        "axes": list(axes_of(record.name)),
        "stats": stats,
        "source": {"file": shown, "qualname": record.code.co_qualname, "line": record.line},
        "truncated": None,
    }


@functools.cache
def shown_path(name: str) -> str:
    """A source file as it is called inside the checkout."""
    file = Path(name)
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name


# --- what fits ---


def budget(
    steps: list[Step], size: int, max_bytes: int, level: Level, topk: int
) -> tuple[set[int] | None, int | None]:
    """(the positions to keep, how many entries of each vector); None: all."""
    k = topk if level == "topk" else None
    if k is None and size * sum(r.tensor.numel() for s in steps for r in s.records) <= max_bytes:
        return None, None
    costs, fixed = costs_of(steps, size, k)
    if fixed + sum(costs.values()) <= max_bytes:
        return None, k
    kept, used = set[int](), fixed
    for position in sorted(costs, reverse=True):
        used += costs[position]
        if used > max_bytes:
            break
        kept.add(position)
    if kept:
        return kept, k
    newest = max(costs, default=0)
    for fewer in FALLBACK_K:
        if k is None or fewer < k:
            costs, fixed = costs_of(steps, size, fewer)
            if fixed + costs.get(newest, 0) <= max_bytes:
                return {newest}, fewer
    costs, fixed = costs_of(steps, size, 1)
    raise BudgetTooSmall(
        f"max_bytes is {max_bytes}, and the largest entry of each vector at one position needs "
        f"{fixed + costs.get(newest, 0)}: raise it, ask for fewer names, or for level stats"
    )


def costs_of(steps: list[Step], size: int, k: int | None) -> tuple[dict[int, int], int]:
    """Bytes for each position, and bytes that every trace of these names needs."""
    costs, fixed = dict[int, int](), 0
    for step in steps:
        places = positions_of(step)
        for place in places:
            costs.setdefault(place, 0)
        for record in step.records:
            last = record.tensor.size(-1)
            entry = size if k is None or k >= last else size + 4
            rows = record.tensor.numel() // max(last, 1)
            whole = rows * min(last, k or last) * entry
            if "T" not in axes_of(record.name):
                fixed += whole
            elif places:
                for place in places:
                    costs[place] += whole // len(places)
    return costs, fixed


def positions_of(step: Step) -> list[int]:
    if step.positions is not None:
        return step.positions
    return list(range(step.start, step.start + len(step.tokens)))


def cut(
    record: Record, places: list[int], allowed: set[int] | None, k: int | None
) -> tuple[Tensor, Json | None]:
    """The part of a tensor that is kept, and what to say about the rest. `places` are its rows."""
    axes, tensor = axes_of(record.name), record.tensor[0]
    truncated: Json | None = None
    if allowed is not None and "T" in axes:
        keep = sum(place in allowed for place in places)  # the newest, so the last rows
        total = len(places)
        tensor = tensor.narrow(axes.index("T"), total - keep, keep)
        if keep < total:
            truncated = {"axis": "T", "kept": keep, "of": total}
    last = tensor.size(-1)
    if k is not None and k < last:
        more = {"axis": axes[-1], "kept": k, "of": last}
        truncated = more if truncated is None else truncated | {"topk": more}
    return tensor, truncated


def largest(tensor: Tensor, k: int | None) -> tuple[Tensor, Tensor | None]:
    """The k entries of largest size in each vector, in the order of their places."""
    if k is None or k >= tensor.size(-1):
        return tensor, None
    order = torch.sort(tensor.abs(), dim=-1, descending=True, stable=True).indices[..., :k]
    index = order.sort(dim=-1).values
    return tensor.gather(-1, index), index.to(torch.int32)


# --- bytes ---


def payload_of(
    kept: Kept, label: str
) -> tuple[bytes, dict[str, tuple[int, int]], dict[str, Tensor]]:
    """A safetensors file: all values, then all indices; and where each tensor lies in it."""
    header: Json = {"__metadata__": {"schema_version": str(SCHEMA)}}
    offsets, tensors, at = dict[str, tuple[int, int]](), dict[str, Tensor](), 0
    groups = ((kept.values, kept.shapes, label), (kept.index, kept.index_shapes, "I32"))
    for flat, shapes, word in groups:
        place = 0
        for name, shape in shapes.items():
            count = math.prod(shape)
            end = at + count * flat.element_size()
            header[name] = {"dtype": word, "shape": list(shape), "data_offsets": [at, end]}
            offsets[name] = (at, end)
            tensors[name] = flat[place : place + count].view(shape)
            at, place = end, place + count
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    start = 8 + len(head)
    offsets = {name: (start + first, start + last) for name, (first, last) in offsets.items()}
    data = kept.values.numpy().tobytes() + kept.index.numpy().tobytes()
    return len(head).to_bytes(8, "little") + head + data, offsets, tensors


# --- files ---


def save_trace(trace: Trace, path: Path) -> tuple[Path, Path]:
    """Write PATH.safetensors and PATH.json; returns both. A suffix of either kind is taken off."""
    base = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    data, manifest = Path(f"{base}.safetensors"), Path(f"{base}.json")
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_bytes(trace.payload)
    write_atomically(manifest, json.dumps(trace.manifest, allow_nan=False) + "\n")
    return data, manifest


def read_trace(manifest: Path) -> Trace:
    """Read both files and check that they belong together. Raises BadTrace."""
    try:
        about = json.loads(manifest.read_text(encoding="utf-8"))
        payload = manifest.with_suffix(".safetensors").read_bytes()
        version, wanted = about["schema_version"], about["payload"]
        if version != SCHEMA:
            raise BadTrace(f"{manifest} has schema {version}, this reader knows {SCHEMA}")
        if hashlib.sha256(payload).hexdigest() != wanted["sha256"]:
            raise BadTrace(f"{manifest.with_suffix('.safetensors')} is not the file it was")
        return Trace(about, payload, load_tensors(payload))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadTrace(f"{manifest} cannot be read as a trace: {error}") from error
