"""A CORE bundle made of TinyWorld: the same files as the DCLM bundle, small enough for a laptop.

Called by scripts/base_eval.py when the real bundle is not there, or when it is asked for.
Four tasks from the held-out exam: endings to choose from (with and without solved examples), one
ending after two beginnings, and the last word of an answer. Read: write_bundle -> the row makers.
"""

import csv
import io
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from nanochat.atomic import write_atomically
from nanochat.tinyworld_exam import ExamItem

Rows = list[dict[str, Any]]
PLACES = ("where_person", "where_object", "two_hop")


def text_of(item: ExamItem) -> str:
    """Story and question as pretraining text has them: 'Question: ... Answer:'."""
    story, _, question = str(item.messages[-1]["content"]).rpartition("\n")
    return f"{story}\nQuestion: {question} Answer:".lstrip()


def with_key(item: ExamItem, choice: str) -> str:
    """The ideal answer with another choice in the place of the right one."""
    return item.answer.replace(item.key, choice)


def endings(items: Sequence[ExamItem]) -> Rows:
    """Which of these answers follows? A row for each question whose answer names a choice."""
    rows: Rows = []
    for item in items:
        if item.kind in PLACES and item.key in item.choices and item.answer.count(item.key) == 1:
            choices = [with_key(item, choice) for choice in item.choices]
            gold = item.choices.index(item.key)
            rows.append({"query": text_of(item), "choices": choices, "gold": gold})
    return rows


def beginnings(items: Sequence[ExamItem]) -> Rows:
    """After which of two stories is this answer the likelier: its own, or its neighbour's?"""
    asked = [item for item in items if item.kind == "where_person"]
    rows: Rows = []
    for number, (one, other) in enumerate(pairwise(asked)):
        options = [text_of(one), text_of(other)]
        gold = number % 2
        if gold:
            options.reverse()
        if one.answer != other.answer:
            row = {"context_options": options, "continuation": one.answer, "gold": gold}
            rows.append(row)
    return rows


def last_words(items: Sequence[ExamItem]) -> Rows:
    """The answer up to its last word, which has to be found."""
    rows: Rows = []
    for item in items:
        begin, _, word = item.answer.rstrip(".").rpartition(" ")
        if item.kind in PLACES and begin and word == item.key:
            rows.append({"context": f"{text_of(item)} {begin}", "continuation": word})
    return rows


def write_bundle(folder: Path, items: Sequence[ExamItem]) -> Path:
    """Write core.yaml, eval_meta_data.csv and eval_data/ made of these exam items."""
    choices, stories, words = endings(items), beginnings(items), last_words(items)
    guess = 100 * sum(1 / len(row["choices"]) for row in choices) / max(1, len(choices))
    tasks = [  # label, kind, shots, chance in per cent, rows
        ("tinyworld_places", "multiple_choice", 0, guess, choices),
        ("tinyworld_places_3shot", "multiple_choice", 3, guess, choices),
        ("tinyworld_stories", "schema", 0, 50.0, stories),
        ("tinyworld_last_word", "language_modeling", 0, 0.0, words),
    ]
    listed = []
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["Eval Task", "Task Category", "#shots", "Random baseline"])
    for label, kind, shots, chance, rows in tasks:
        if not rows:  # a very small exam
            continue
        file = f"tinyworld/{label.removesuffix('_3shot')}.jsonl"
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(folder / "eval_data" / file, lines)
        listed.append(
            f"- label: {label}\n  dataset_uri: {file}\n  num_fewshot: [{shots}]\n"
            f"  icl_task_type: {kind}\n  continuation_delimiter: ' '\n"
        )
        writer.writerow([label, "TinyWorld", shots, chance])
    write_atomically(folder / "eval_meta_data.csv", table.getvalue())
    write_atomically(folder / "core.yaml", "icl_tasks:\n" + "".join(listed))
    return folder
