"""How much faster CORE is when many examples share a pass than one at a time.

Called by scripts/bench.py: `nanochat bench core`, on TinyWorld's bundle. Both ways take turns, task
by task, so that a busy machine slows both alike; the median round counts.
"""

import statistics
import time
from dataclasses import dataclass
from typing import Any

from nanochat.checkpoint import load_model
from nanochat.core_eval import run_task
from nanochat.core_eval_bundle import bundle_dir, examples_of, read_bundle
from nanochat.core_eval_tinyworld import write_bundle
from nanochat.device import pick_device, use_threads
from nanochat.paths import data_dir
from nanochat.tinyworld import load_exam


@dataclass(frozen=True)
class CoreBenchSettings:
    """What to measure."""

    stage: str = "base"  # base | sft | rl
    tag: str = ""  # name of the run; empty: the newest
    max_per_task: int = 50  # examples of each task; 0: all
    batch_tokens: int = 0  # tokens in one forward pass; 0: 1,024, on a GPU 65,536
    rounds: int = 3  # pairs of runs
    device: str = "auto"  # auto | cpu | cuda | mps
    threads: int = 1  # processor threads
    json: bool = False  # print one JSON object as the last line


def bench_core(settings: CoreBenchSettings) -> dict[str, Any]:
    """Seconds for the same examples in both ways; `same_marks` says whether they agree."""
    use_threads(settings.threads)
    device = pick_device(settings.device)
    model, tokenizer, _ = load_model(settings.stage, settings.tag or None, device)
    folder = write_bundle(bundle_dir("tinyworld"), load_exam(data_dir("tinyworld") / "exam.jsonl"))
    tasks = [examples_of(task, tokenizer, settings.max_per_task) for task in read_bundle(folder)]
    ways = (("alone", True), ("together", False))
    seconds: dict[str, list[float]] = {"alone": [], "together": []}
    same = True
    for _ in range(settings.rounds):
        spent = {"alone": 0.0, "together": 0.0}
        for examples in tasks:
            marks = {}
            for name, one_at_a_time in ways:
                started = time.perf_counter()
                marks[name] = run_task(model, examples, settings.batch_tokens, one_at_a_time)
                spent[name] += time.perf_counter() - started
            same &= marks["alone"] == marks["together"]
        for name, each in spent.items():
            seconds[name].append(each)
    speedups = [a / b for a, b in zip(seconds["alone"], seconds["together"], strict=True)]
    return {
        "alone_s": round(statistics.median(seconds["alone"]), 3),
        "together_s": round(statistics.median(seconds["together"]), 3),
        "speedup": round(statistics.median(speedups), 2),
        "same_marks": same,
        "examples": sum(map(len, tasks)),
    }
