"""The numbers of a trace: figures about each of many small tensors, in one pass over them.

Called by trace_format.py. A forward pass of a small model takes a few milliseconds and has a
hundred activations: a hundred calls for each figure would cost more than the pass itself. So
activations are laid end to end, as many as the processor's cache holds, and each figure is taken
of all of them in one call. Read: measured -> batches -> figures_of -> finite_figures -> stats_of.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STATS = ("mean", "std", "rms", "min", "max", "zeros")
COLUMNS = (*STATS, "nonfinite")
BATCH = 1 << 17  # numbers looked at together: half a megabyte, which the cache holds

Floats = NDArray[np.float32]


@torch.no_grad()
def measured(tensors: Sequence[Tensor], copy: Tensor | None) -> NDArray[np.float64]:
    """(tensors, 7): the COLUMNS of each, zeros as a share; all numbers also go into `copy`.

    Where entries are not finite, as scores of keys that may not be seen, the others are measured.
    """
    found = np.zeros((len(tensors), len(COLUMNS)))
    full = [i for i, x in enumerate(tensors) if x.numel()]  # none of a trace of no position
    sizes, at = [tensors[i].numel() for i in full], 0
    room, squares = (
        torch.empty(BATCH),
        np.empty(BATCH, np.float32),
    )  # new memory costs more than sums
    for first, last in batches(sizes):
        whole = laid_out([tensors[i] for i in full[first:last]], room[: sum(sizes[first:last])])
        if copy is not None:
            copy[at : at + whole.numel()] = whole
        at += whole.numel()
        found[full[first:last]] = figures_of(whole.numpy(), sizes[first:last], squares)
    return found


def batches(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of neighbours that fit into BATCH together; a larger tensor is alone.

    >>> list(batches([BATCH, 1, BATCH - 1, 2]))
    [(0, 1), (1, 3), (3, 4)]
    """
    first, count = 0, 0
    for i, size in enumerate(sizes):
        count += size
        if count > BATCH and first < i:
            yield first, i
            first, count = i, size
    if sizes:
        yield first, len(sizes)


def laid_out(tensors: Sequence[Tensor], room: Tensor) -> Tensor:
    """All numbers end to end in fp32 on the processor, in `room` where that is possible."""
    flat = [x.reshape(-1) for x in tensors]
    if len(flat) == 1:
        return flat[0].float().cpu()
    if flat[0].device == room.device and {x.dtype for x in flat} == {room.dtype}:
        return torch.cat(flat, out=room)
    return torch.cat(flat).float().cpu()


def figures_of(values: Floats, sizes: Sequence[int], room: Floats) -> NDArray[np.float64]:
    """(pieces, 7): the COLUMNS of pieces that lie end to end, none of them empty."""
    n = np.asarray(sizes)
    ends = np.cumsum(n)
    starts = ends - n
    room = room[: len(values)] if len(values) <= len(room) else np.empty_like(values)
    with np.errstate(invalid="ignore", over="ignore"):  # finite_figures answers those
        mean = np.add.reduceat(values, starts) / n
        square = np.add.reduceat(np.multiply(values, values, out=room), starts) / n
        spread = square - mean * mean
        std, rms = np.sqrt(spread), np.sqrt(square)
        unclear = np.flatnonzero(~(spread > 0.1 * square)).tolist()  # infinite, or all rounding
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    zeros, none = np.zeros(len(n)), values == 0
    if none.any():
        borders = zip(starts.tolist(), ends.tolist(), strict=True)
        zeros = np.array([np.count_nonzero(none[a:b]) for a, b in borders]) / n
    found = np.stack((mean, std, rms, low, high, zeros, np.zeros(len(n))), axis=1)
    hidden = []  # pieces with entries that are not finite
    for i in unclear:
        piece = values[starts[i] : ends[i]]
        if math.isfinite(float(low[i]) + float(high[i]) + float(square[i])):
            off = piece - mean[i]
            found[i, 1] = math.sqrt(float(off @ off) / len(off))
        elif (seen := piece[np.isfinite(piece)]).size in (0, piece.size):
            found[i] = finite_figures(piece)
        else:
            hidden.append((i, seen))
    if hidden:
        counts = [len(seen) for _, seen in hidden]
        places = [i for i, _ in hidden]
        found[places] = figures_of(np.concatenate([seen for _, seen in hidden]), counts, room)
        found[places, -1] = n[places] - counts
    return found


def finite_figures(values: Floats) -> list[float]:
    """The COLUMNS of one piece: of its finite entries, in fp64, in as many steps as it takes."""
    seen = values[np.isfinite(values)]
    n, lost = len(seen), len(values) - len(seen)
    if n == 0:
        return [0.0] * len(STATS) + [lost]
    mean = float(np.add.reduce(seen, dtype=np.float64)) / n
    off = seen - np.float64(mean)
    std = math.sqrt(float(off @ off) / n)
    low, high = float(np.minimum.reduce(seen)), float(np.maximum.reduce(seen))
    return [mean, std, math.hypot(mean, std), low, high, 1 - np.count_nonzero(seen) / n, lost]


def stats_of(row: Sequence[float], count: int) -> dict[str, Any]:
    """The figures of one tensor of `count` entries as a manifest has them, six digits each."""
    numbers = (float(f"{number:.6g}") for number in row[: len(STATS)])
    return dict(zip(STATS, numbers, strict=True)) | {"count": count, "nonfinite": int(row[-1])}
