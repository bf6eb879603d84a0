"""How fast are our engines? Measured beside microgpt.py in one run, in turns, on the same text.

Every round gives each program the same few documents as real training steps (gradient, Adam); fast
ones repeat their turn from the same state and count the median. Ratios are medians over rounds, so
a machine that slows down for a while slows both sides. Called by `nanochat scalar bench`.
Read: PageOne and Ours -> in_turns -> full_run -> cost_per_node -> bench.
"""

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.scalar.settings import BenchSettings, ModelSettings
from nanochat.scalar.tape import Node, Tape, library_for
from nanochat.scalar.training import Run
from nanochat.scalar.value import Value, no_collector

TOLERANCE = 1e-12  # for losses of engines that don't promise equal bits
REPEAT_FOR_S = 0.05  # fast engines repeat a turn until it took this long
OFTEN = 1_000_000  # larger graphs of Values are timed once: they take a while and 250 bytes each
ENGINES = {  # record name -> settings
    "object": {"engine": "object"},
    "numpy_replay": {"engine": "tape", "replay": "numpy"},
    "c_replay": {"engine": "tape", "replay": "c"},
    "numpy_tensor": {"engine": "numpy"},
}


class PageOne:
    """microgpt.py, given as a module, one training step at a time."""

    def __init__(self, page: Any) -> None:
        preset = page.PRESETS["b"]
        lines = page.read_lines(page.NAMES)
        rng = random.Random(page.SEED)
        rng.shuffle(lines)
        tokens = page.Tokens(lines)
        weights = page.make_weights(preset, tokens.bos + 1, rng)
        self._steps = page.train(lines, tokens, weights, preset, preset.steps)

    def turn(self, steps: int) -> tuple[list[float], float]:
        """Losses, and seconds per step."""
        started = time.perf_counter()
        losses = [next(self._steps) for _ in range(steps)]
        return losses, (time.perf_counter() - started) / steps


class Ours:
    """One of our engines on the same text in the same order."""

    def __init__(self, settings: dict[str, Any], cache: Path | None) -> None:
        self.run = Run(ModelSettings(parity=True, **settings), cache)
        self.slow = settings["engine"] == "object"  # one turn is long enough

    def _state(self) -> tuple[Any, ...]:
        o = self.run.optimizer
        arrays = (self.run.parameters.copy(), o.mean.copy(), o.square.copy())
        return arrays, o.steps_done, self.run.position, len(self.run.losses)

    def _restore(self, state: tuple[Any, ...]) -> None:
        (parameters, mean, square), steps_done, position, n = state
        self.run.parameters[:] = parameters
        self.run.optimizer.mean[:], self.run.optimizer.square[:] = mean, square
        self.run.optimizer.steps_done, self.run.position = steps_done, position
        del self.run.losses[n:]

    def _see_others(self, steps: int) -> None:
        """Other documents of the coming lengths: what a tape kept of the last turn is gone."""
        run, scratch = self.run, self.run.gradient.copy()
        for i in range(run.position, run.position + steps):
            document = run.corpus.train[run.order[i % len(run.order)]]
            run.engine.gradient(run.parameters, document[::-1], scratch, 1.0)

    def turn(self, steps: int) -> tuple[list[float], float]:
        """Train some steps from the same state, again and again: (losses, best seconds)."""
        state = self._state()
        times: list[float] = []
        while len(times) < 2 or sum(times) < REPEAT_FOR_S:
            if self.slow and times:
                break
            self._restore(state)
            if not self.slow:
                self._see_others(steps)
            started = time.perf_counter()
            losses = [self.run.step() for _ in range(steps)]
            times.append(time.perf_counter() - started)
        warm = times[1:] or times  # the first turn compiles programs for new lengths
        return losses, statistics.median(warm) / steps


def in_turns(
    programs: dict[str, Any], rounds: int, steps: int, show: Callable[[str], None]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Losses of every program, and its seconds per step in each round."""
    losses: dict[str, list[float]] = {name: [] for name in programs}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(1, rounds + 1):
        for name, program in programs.items():
            show(f"round {number} of {rounds}: {name}")
            found, seconds = program.turn(steps)
            losses[name] += found
            times[name].append(seconds)
    return losses, times


def equal(losses: dict[str, list[float]]) -> bool:
    """Same bits where they are promised, within TOLERANCE elsewhere."""
    truth = losses["microgpt"]
    exact = all(losses[name] == truth for name in ("object", "c_replay") if name in losses)
    return exact and all(
        abs(a - b) <= TOLERANCE for name in losses for a, b in zip(losses[name], truth, strict=True)
    )


def full_run(settings: dict[str, Any], cache: Path | None) -> float:
    """Seconds for preset b from text to step 1,000, recording and planning included."""
    started = time.perf_counter()
    run = Run(ModelSettings(parity=True, **settings), cache)
    for _ in range(run.steps):
        run.step()
    return time.perf_counter() - started


def chains(weights: Sequence[Any], n_nodes: int) -> Any:
    """A graph of about n_nodes: chains of 100 cells h = relu(h * w + v), added up.

    Like a model, it uses each weight in a few places: give it `weights_for` weights.
    """
    total, n = weights[0] * weights[1], len(weights)
    for chain in range(max(1, n_nodes // 301)):
        h = weights[chain % n] * 0.5
        for cell in range(100):
            h = (h * weights[(chain + cell) % n] + weights[(chain + 3 * cell) % n]).relu()
        total = total + h
    return total


def weights_for(n_nodes: int) -> np.ndarray:
    """First weights for a graph of n_nodes: one for about fifteen nodes, as in the mini-GPT."""
    return 0.3 + 0.6 * np.modf(np.arange(16 + n_nodes // 15) * 0.618)[0]


def cost_per_node(n_nodes: int, cache: Path | None, backend: str) -> dict[str, float | None]:
    """Nanoseconds per node: recording, planning, one replay forward and back; Values likewise."""
    numbers = weights_for(n_nodes)
    gradient = np.zeros(len(numbers))
    started = time.perf_counter()
    tape = Tape()
    root: Node = chains(tape.parameters(len(numbers)), n_nodes)
    recorded = time.perf_counter()
    program = tape.compile(root, "c" if backend == "c" else "numpy", cache)
    program.forward(numbers)
    program.backward()  # sorts the gradients: part of planning
    ready = time.perf_counter()
    times: list[float] = []
    while len(times) < 3 or sum(times) < REPEAT_FOR_S:
        begin = time.perf_counter()
        program.forward(numbers)
        program.backward(gradient)
        times.append(time.perf_counter() - begin)
    per_node = 1e9 / len(tape)
    turns = range(3 if n_nodes <= OFTEN else 1)
    object_s = min(_object_seconds(numbers.tolist(), n_nodes) for _ in turns)
    return {
        "nodes": len(tape),
        "record_ns": (recorded - started) * per_node,
        "plan_ns": (ready - recorded) * per_node,
        "replay_ns": statistics.median(times) * per_node,
        "object_ns": object_s * 1e9 / len(tape),
    }


def _object_seconds(numbers: list[float], n_nodes: int) -> float:
    started = time.perf_counter()
    with no_collector():
        root: Value = chains([Value(x) for x in numbers], n_nodes)
        root.backward()
    return time.perf_counter() - started


def bench(
    settings: BenchSettings,
    page: Any,
    cache: Path | None,
    show: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Everything above as one record; `page` is the module microgpt."""
    has_c = library_for("auto", cache) is not None
    engines = {name: s for name, s in ENGINES.items() if has_c or name != "c_replay"}
    load = os.getloadavg()[0]
    programs = {"microgpt": PageOne(page), **{n: Ours(s, cache) for n, s in engines.items()}}
    gc.collect()
    gc.freeze()  # the collector, which microgpt.py leaves on, shall not look through our objects
    losses, times = in_turns(programs, settings.rounds, settings.documents, show)
    gc.unfreeze()
    record: dict[str, Any] = {"losses_equal": equal(losses), "steps": len(losses["microgpt"])}
    for name in ENGINES:
        pairs = zip(times["microgpt"], times.get(name, ()), strict=False)
        ratios = [slow / fast for slow, fast in pairs]
        record[f"{name}_x"] = statistics.median(ratios) if ratios else None
    record["step_ms"] = {name: 1e3 * statistics.median(t) for name, t in times.items()}
    fastest = "c_replay" if has_c else "numpy_replay"
    show(f"1,000 steps: {fastest}")
    record["full_run_s"] = statistics.median(full_run(ENGINES[fastest], cache) for _ in range(3))
    record["cost_per_node"] = []
    n_nodes = 1000
    while n_nodes <= settings.largest:
        show(f"cost per node: {n_nodes:,} nodes")
        record["cost_per_node"].append(cost_per_node(n_nodes, cache, fastest[0]))
        n_nodes *= 10
    record["load_before"] = load
    record["cores"] = os.cpu_count()
    return record


def table(record: dict[str, Any]) -> str:
    """The record for people."""
    lines = ["engine          ms/step   x microgpt.py"]
    for name, ms in record["step_ms"].items():
        ratio = record.get(f"{name}_x")
        lines.append(f"{name:<14} {ms:>8.3f}" + (f"   {ratio:,.1f}" if ratio else ""))
    lines.append(f"losses equal: {'yes' if record['losses_equal'] else 'NO'}")
    lines.append(f"1,000 steps, everything included: {record['full_run_s']:.2f} s")
    lines.append("nodes       ns per node: replay  record   plan  object")
    for row in record["cost_per_node"]:
        cells = (row[f"{name}_ns"] for name in ("replay", "record", "plan", "object"))
        shown = "".join(f"{ns:>8.1f}" for ns in cells)
        lines.append(f"{row['nodes']:>10,}            {shown}")
    lines.append(f"load before: {record['load_before']:.1f} on {record['cores']} cores")
    return "\n".join(lines)
