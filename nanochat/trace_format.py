"""A trace as two files: NAME.safetensors with the numbers, NAME.json that says what they are.

Called by trace.py (`pack`), engine_trace.py and serve/ (`save_trace`, `read_trace`). The TypeScript
reader is docs/viewer/src/trace/reader.ts; both read the vectors in tests/data/trace.
Read: Record -> Step -> pack -> budget -> payload_of -> stats_of -> Trace -> save_trace.

The manifest holds no time and no date: the same seed gives the same bytes. Tensors are named
"STEP/NAME"; with top-k, "STEP/NAME#index" (I32) tells which entries of the last axis were kept.
Over the byte budget the newest positions are kept; if even one is too large, its largest entries.
Statistics are always of the whole tensor, whatever was kept of it.
"""

import functools
import hashlib
import json
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

SCHEMA = 1
Level = Literal["stats", "topk", "full"]
FORMATS = {"f16": (torch.float16, "F16", 2), "f32": (torch.float32, "F32", 4)}
FALLBACK_K = (64, 32, 16, 8, 4, 2, 1)
Json = dict[str, Any]


class BudgetTooSmall(UserError):
    """Not even one entry of each vector fits."""


class BadTrace(UserError):
    """The files are not a trace, or not whole."""


@dataclass(frozen=True, slots=True)
class Record:
    """One activation, as it passed a tap."""

    name: str
    tensor: Tensor  # without the batch axis
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


def pack(
    steps: list[Step], level: Level, dtype: str, max_bytes: int, topk: int, about: Json
) -> Trace:
    """Records -> manifest, safetensors bytes, tensors. Raises BudgetTooSmall."""
    records = [(i, record) for i, step in enumerate(steps) for record in step.records]
    kind, label, size = FORMATS[dtype]
    stats = stats_of([record for _, record in records])
    room = (None, None) if level == "stats" else budget(steps, size, max_bytes, level, topk)
    allowed, k = room
    pieces: list[tuple[str, Tensor]] = []
    entries: list[Json] = []
    for (i, record), numbers in zip(records, stats, strict=True):
        entry = describe(i, record, numbers)
        if level != "stats":
            kept, truncated = cut(record, positions_of(steps[i]), allowed, k)
            entry["truncated"] = truncated
            values, index = largest(kept, k)
            pieces.append((f"{i}/{record.name}", values))
            if index is not None:
                pieces.append((f"{i}/{record.name}#index", index))
        entries.append(entry)
    payload, offsets, tensors = payload_of(pieces, kind, label)
    for entry in entries:
        place = offsets.get(f"{entry['step']}/{entry['name']}")
        entry["dtype"] = label if place else None
        entry["offset"] = place[0] if place else None  # in the file, for a range request
        entry["nbytes"] = place[1] - place[0] if place else 0
    manifest: Json = {
        "schema_version": SCHEMA,
        **about,
        "level": level,
        "steps": [
            {"start": step.start, "tokens": step.tokens, "positions": step.positions}
            for step in steps
        ],
        "tensors": entries,
        "payload": {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()},
    }
    return Trace(manifest, payload, tensors)


def describe(step: int, record: Record, stats: Json) -> Json:
    """One tensor's row of the manifest: its shape, its figures, the line that made it."""
    shown = shown_path(record.code.co_filename)
    return {
        "name": record.name,
        "step": step,
        "shape": list(record.tensor.shape),
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
            last = record.tensor.size(-1) if record.tensor.dim() else 1
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
    axes, tensor = axes_of(record.name), record.tensor
    truncated: Json | None = None
    if allowed is not None and "T" in axes:
        keep = sum(place in allowed for place in places)  # the newest, so the last rows
        total = len(places)
        tensor = tensor.narrow(axes.index("T"), total - keep, keep)
        if keep < total:
            truncated = {"axis": "T", "kept": keep, "of": total}
    last = tensor.size(-1) if tensor.dim() else 1
    if k is not None and k < last:
        more = {"axis": axes[-1], "kept": k, "of": last}
        truncated = more if truncated is None else truncated | {"topk": more}
    return tensor, truncated


def largest(tensor: Tensor, k: int | None) -> tuple[Tensor, Tensor | None]:
    """The k entries of largest size in each vector, in the order of their places."""
    if k is None or tensor.dim() == 0 or k >= tensor.size(-1):
        return tensor, None
    order = torch.sort(tensor.abs(), dim=-1, descending=True, stable=True).indices[..., :k]
    index = order.sort(dim=-1).values
    return tensor.gather(-1, index), index.to(torch.int32)


# --- numbers and bytes ---


def payload_of(
    pieces: list[tuple[str, Tensor]], kind: torch.dtype, label: str
) -> tuple[bytes, dict[str, tuple[int, int]], dict[str, Tensor]]:
    """A safetensors file: all values in one copy, then all indices; and where each tensor lies."""
    floats = [(name, x) for name, x in pieces if x.is_floating_point()]
    whole = [(name, x) for name, x in pieces if not x.is_floating_point()]
    header: Json = {"__metadata__": {"schema_version": str(SCHEMA)}}
    offsets, tensors, data, at = dict[str, tuple[int, int]](), dict[str, Tensor](), b"", 0
    for group, to, word in ((floats, kind, label), (whole, torch.int32, "I32")):
        if not group:
            continue
        flat = torch.cat([x.reshape(-1) for _, x in group]).to(to).cpu()
        data += flat.numpy().tobytes()
        place = 0
        for name, x in group:
            end = at + x.numel() * flat.element_size()
            header[name] = {"dtype": word, "shape": list(x.shape), "data_offsets": [at, end]}
            offsets[name] = (at, end)
            tensors[name] = flat[place : place + x.numel()].view(x.shape)
            at, place = end, place + x.numel()
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    start = 8 + len(head)
    offsets = {name: (start + first, start + last) for name, (first, last) in offsets.items()}
    return len(head).to_bytes(8, "little") + head + data, offsets, tensors


STATS = ("mean", "std", "rms", "min", "max", "zeros")


def stats_of(records: list[Record]) -> list[Json]:
    """Mean, spread and extremes of each tensor; tensors of one size are measured together.

    Only finite entries are measured: scores of keys that a query may not see are -inf.
    """
    groups: dict[tuple[int, bool], list[int]] = {}
    for i, record in enumerate(records):
        key = (record.tensor.numel(), record.name.endswith("attn.scores"))
        groups.setdefault(key, []).append(i)
    found: list[Json] = [{}] * len(records)
    for (count, _), members in groups.items():
        if count == 0:
            continue
        rows = torch.stack([records[i].tensor.reshape(-1).float() for i in members])  # (n, count)
        numbers = measure(rows)
        lost = torch.zeros(len(rows))
        if not bool(numbers.isfinite().all()):
            numbers, lost = measure_finite(rows)
        for i, row, gone in zip(members, numbers.T.tolist(), lost.tolist(), strict=True):
            values = (float(f"{number:.6g}") for number in row)
            found[i] = dict(zip(STATS, values, strict=True))
            found[i] |= {"count": count, "nonfinite": int(gone)}
    return found


def measure(x: Tensor) -> Tensor:
    """(n, count) -> (6, n): the STATS of each row, `zeros` as a share."""
    mean = x.mean(dim=1)
    std = torch.linalg.vector_norm(x - mean[:, None], dim=1) * x.size(1) ** -0.5
    low, high = x.aminmax(dim=1)
    zeros = 1 - x.count_nonzero(dim=1) / x.size(1)
    return torch.stack((mean, std, torch.hypot(mean, std), low, high, zeros))


def measure_finite(x: Tensor) -> tuple[Tensor, Tensor]:
    """The same of the finite entries alone, and how many others there are."""
    seen = x.isfinite()
    count = seen.sum(1)
    n = count.clamp(min=1)
    mean = x.where(seen, 0.0).sum(1) / n
    std = torch.linalg.vector_norm((x - mean[:, None]).where(seen, 0.0), dim=1) / n.sqrt()
    low, high = x.where(seen, torch.inf).amin(1), x.where(seen, -torch.inf).amax(1)
    low, high = low.where(count > 0, 0.0), high.where(count > 0, 0.0)
    zeros = (seen & (x == 0)).sum(1) / n
    return torch.stack((mean, std, torch.hypot(mean, std), low, high, zeros)), x.size(1) - count


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
