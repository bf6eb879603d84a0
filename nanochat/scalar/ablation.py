"""Which choices matter? Train every combination of some settings, with several seeds.

A study is a grid of cells. A finished cell is a file named by a hash of all that decides its
result, so a study that was killed goes on where it stopped and ends with the same bytes. Timings
stand in a file of their own. Called by `nanochat scalar ablate`.
Read: Axis -> cells -> run_cell -> effects -> run_study; ablation_report.py writes the files.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nanochat.scalar.checkpoint import write_atomically
from nanochat.scalar.errors import ScalarError
from nanochat.scalar.guards import Diverged, MemoryDriftGuard
from nanochat.scalar.settings import AblateSettings, ModelSettings, resolve
from nanochat.scalar.statistics import interval
from nanochat.scalar.training import GUARD_EVERY, Run, identity

VERSION = 1  # raise it when a change of code changes results: old cells then don't count
METRICS = ("held_out_nats_per_char", "held_out_bits_per_byte", "final_loss", "mean_loss_last_50")


@dataclass(frozen=True)
class Axis:
    """A setting and the values it takes; the first is the one others are compared with."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    levels: tuple[int, ...]  # position in each axis' values
    settings: ModelSettings


@dataclass(frozen=True)
class Effect:
    """What changing one axis from its first value to another does, all else equal."""

    axis: str
    base: Any
    value: Any
    by_seed: tuple[float, ...]  # differences in nats per character; below 0 is better
    mean: float
    interval95: float | None  # half width, over seeds; None with one seed
    interval95_all: float | None  # the same, valid for all effects of the study at once


def parse_axis(text: str, settings: ModelSettings) -> Axis:
    """'norm' -> (as set, the other); 'layers=1,2' -> (1, 2)."""
    name, _, listed = text.partition("=")
    name = name.strip().replace("-", "_")
    kinds = {f.name: get_type_hints(ModelSettings)[f.name] for f in fields(ModelSettings)}
    if name not in kinds or name in ("seed", "data"):
        raise ScalarError(f"--axes {text}: no setting {name}; there are {', '.join(kinds)}")
    if not listed and kinds[name] is bool:
        return Axis(name, (getattr(settings, name), not getattr(settings, name)))
    values = tuple(_parse(word.strip(), kinds[name], text) for word in listed.split(",") if word)
    if len(set(values)) < 2:
        raise ScalarError(f"--axes {text}: give two values or more, as in {name}=1,2")
    return Axis(name, values)


def _parse(word: str, kind: Any, text: str) -> Any:
    """One value of an axis as its setting's type."""
    kinds = (
        [k for k in get_args(kind) if k is not NoneType] if NoneType in get_args(kind) else [kind]
    )
    for k in kinds:
        if get_origin(k) is Literal and word in get_args(k):
            return word
        if k is bool and word.lower() in ("true", "false"):
            return word.lower() == "true"
        if k is str:
            return word
        if k in (int, float):
            try:
                return k(word)
            except ValueError:
                continue
    raise ScalarError(f"--axes {text}: {word!r} is not a value of that setting")


def cells(settings: AblateSettings, axes: list[Axis]) -> list[Cell]:
    """Every run of the study; with half, those whose positions add up to an even number."""
    base = {f.name: getattr(settings, f.name) for f in fields(ModelSettings)}
    found = []
    for levels in product(*(range(len(axis.values)) for axis in axes)):
        if settings.fraction == "half" and sum(levels) % 2:
            continue
        chosen = {a.name: a.values[i] for a, i in zip(axes, levels, strict=True)}
        for seed in range(settings.seed, settings.seed + settings.seeds):
            found.append(Cell(levels, resolve(ModelSettings(**base | chosen | {"seed": seed}))))
    return found


def key_of(cell: Cell, data_sha256: str) -> str:
    """A hash of all that decides the cell's result."""
    decides = identity(cell.settings) | {"eval_documents": cell.settings.eval_documents}
    text = json.dumps([VERSION, data_sha256, decides], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_cell(cell: Cell, cache: Path | None) -> dict[str, Any]:
    """Train and judge one cell. Results and timing stay apart: only results repeat exactly."""
    run = Run(cell.settings, cache)
    guard = MemoryDriftGuard()
    started = time.perf_counter()
    results: dict[str, Any] = {"parameters": run.shape.n_parameters, "diverged": False}
    try:
        for step in range(run.steps):
            run.step()
            if step % GUARD_EVERY == 0:
                guard.check(f"step {step}")
        seconds = time.perf_counter() - started
        found = run.evaluate(lambda: guard.check("validation"))
    except Diverged:
        results |= {"diverged": True} | dict.fromkeys(METRICS)
        return {"results": results, "timing": {"seconds": time.perf_counter() - started}}
    last = run.losses[-50:]
    results["held_out_nats_per_char"] = found.nats_per_char if found else None
    results["held_out_bits_per_byte"] = found.bits_per_byte if found else None
    results["final_loss"] = run.losses[-1]
    results["mean_loss_last_50"] = sum(last) / len(last)
    return {"results": results, "timing": {"seconds": seconds, "steps_per_s": run.steps / seconds}}


def score(result: dict[str, Any]) -> float | None:
    """What cells are compared by: held-out nats per character, without any the last losses."""
    nats = result["held_out_nats_per_char"]
    return result["mean_loss_last_50"] if nats is None else nats


def effects(axes: list[Axis], rows: list[dict[str, Any]]) -> list[Effect]:
    """Main effects, paired by seed: for each seed the difference of means over all other axes.

    In a full design that is the mean of the differences between cells that differ in one axis.
    Seeds, not cells, are the independent units, so the interval is over seeds.
    """
    wanted = [(a, level) for a in axes for level in range(1, len(a.values))]
    found = []
    for axis, level in wanted:
        by_seed = []
        for seed in sorted({row["seed"] for row in rows}):
            mine = [row for row in rows if row["seed"] == seed and score(row) is not None]
            means = []
            for value in (axis.values[level], axis.values[0]):
                scores = [score(row) or 0.0 for row in mine if row[axis.name] == value]
                means.append(math.fsum(scores) / len(scores) if scores else math.nan)
            if math.isfinite(means[0] - means[1]):
                by_seed.append(means[0] - means[1])
        if not by_seed:
            continue
        mean, half = interval(by_seed, 0.95)
        _, half_all = interval(by_seed, 1 - 0.05 / len(wanted))  # Bonferroni
        effect = Effect(
            axis.name, axis.values[0], axis.values[level], tuple(by_seed), mean, half, half_all
        )
        found.append(effect)
    return found


def run_study(
    settings: AblateSettings,
    folder: Path,
    cache: Path | None,
    show: Callable[[str], None] = lambda line: None,
) -> tuple[list[Axis], list[dict[str, Any]], list[dict[str, Any]]]:
    """Run what is missing; returns the axes, a row of results for each cell, and the timings."""
    axes = [parse_axis(text, settings) for text in settings.axes]
    if len({axis.name for axis in axes}) < len(axes) or settings.seeds < 1:
        raise ScalarError(f"axes {settings.axes}, seeds {settings.seeds}: each axis once, a seed")
    data_sha256 = hashlib.sha256(_read(settings.data)).hexdigest()
    grid = cells(settings, axes)
    rows, timings = [], []
    for number, cell in enumerate(grid, 1):
        key = key_of(cell, data_sha256)
        path = folder / "cells" / f"{key}.json"
        if not path.exists():
            show(f"cell {number} of {len(grid)}")
            write_atomically(path, json.dumps(run_cell(cell, cache), indent=1))
        outcome = json.loads(path.read_text())
        values = {a.name: a.values[i] for a, i in zip(axes, cell.levels, strict=True)}
        rows.append({"cell": key, **values, "seed": cell.settings.seed, **outcome["results"]})
        timings.append({"cell": key, **outcome["timing"]})
    return axes, rows, timings


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ScalarError(f"{path} can't be read: {error.strerror}") from None


def base_of(settings: AblateSettings) -> dict[str, Any]:
    """The settings that all cells share, for the report."""
    return identity(resolve(replace(settings)))
