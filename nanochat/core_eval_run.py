"""CORE over a whole bundle: accuracy of every task, their mean above chance, a picture of both.

Called by scripts/base_eval.py. Read: run_core -> core_picture.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanochat.core_eval import centered, run_task
from nanochat.core_eval_bundle import examples_of, read_bundle
from nanochat.distributed_work import shared_out
from nanochat.gpt import GPT
from nanochat.picture import bar_chart_svg
from nanochat.tokenizer import Tokenizer


def run_core(
    model: GPT,
    tokenizer: Tokenizer,
    folder: Path,
    max_per_task: int = 0,
    batch_tokens: int = 0,
    one_at_a_time: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """{"core", "bundle", "tasks": {label: {"accuracy", "centered", "chance", "examples", ...}}}.

    Several processes divide the examples, and all return the same.
    `max_per_task` 0 takes every example; `cropped` counts those too long for the model's context.
    """
    tasks = {}
    for task in read_bundle(folder):
        examples = examples_of(task, tokenizer, max_per_task)
        started = time.perf_counter()
        marks = shared_out(
            examples, lambda some: run_task(model, some, batch_tokens, one_at_a_time)
        )
        accuracy = sum(marks) / len(marks)
        tasks[task.label] = {
            "accuracy": accuracy,
            "centered": centered(accuracy, task.chance),
            "chance": task.chance,
            "examples": len(marks),
            "cropped": sum(not e.fits(model.config.sequence_len) for e in examples),
            "seconds": round(time.perf_counter() - started, 3),
        }
        say(f"  {task.label:<28} {accuracy:6.1%}   (guessing {task.chance:.0%})")
    score = sum(one["centered"] for one in tasks.values()) / len(tasks)
    return {"core": score, "bundle": folder.name, "tasks": tasks}


def core_picture(result: dict[str, Any]) -> str:
    """Bars for each task: what the model gets right beside what guessing does."""
    bars = {
        label.replace("tinyworld_", ""): {"accuracy": one["accuracy"], "guessing": one["chance"]}
        for label, one in result["tasks"].items()
    }
    title = f"CORE {result['core']:.3f} ({result['bundle']})"
    return bar_chart_svg(title, bars, y_label="right answers")
