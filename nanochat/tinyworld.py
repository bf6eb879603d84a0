"""TinyWorld, the built-in data: a small simulated world that writes stories and knows the answers.

From one seed come pretraining text, dialogues and a held-out exam, so that skill is measured and
not guessed. Called by scripts/tinyworld_make.py, dataset.py, tasks and the evaluations.
Read: tinyworld_settings -> tinyworld_simulate -> tinyworld_stories -> tinyworld_questions ->
tinyworld_skills -> tinyworld_dialogues -> tinyworld_exam, then write_tinyworld here.

What is written: train-00000.parquet and val.parquet (column "text"), sft_train.jsonl and
sft_val.jsonl (conversations), exam.jsonl, and manifest.json (settings, statistics, checksums).
"""

import hashlib
import io
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nanochat.atomic import write_atomically
from nanochat.errors import UserError
from nanochat.tinyworld_dialogues import (
    as_conversation,
    conversation,
    pretraining_text,
    turns,
)
from nanochat.tinyworld_exam import ExamItem, exam, from_dict, grade, majority_baseline
from nanochat.tinyworld_settings import WorldSettings
from nanochat.tinyworld_stories import Story, story

__all__ = [
    "ExamItem",
    "Story",
    "WorldSettings",
    "conversation",
    "exam",
    "grade",
    "load_exam",
    "majority_baseline",
    "pretraining_text",
    "story",
    "write_tinyworld",
]

CHUNK = 500  # items a worker makes before it reports back
ROWS_PER_GROUP = 256
ROWS_PER_SHARD = 20_000
Progress = Callable[[str, int, int], None]  # (what, done, total)


class TinyWorldError(UserError):
    """The settings ask for something the world does not have, or the data is missing."""


class Chunk(NamedTuple):
    """Some lines of one file, and what is in them."""

    lines: list[str]
    words: int
    distinct: set[str]
    kinds: Counter[str]
    questions: set[str]


def check_settings(settings: WorldSettings) -> None:
    """One sentence for each dial that is out of range."""
    limits = {"names": (8, 48), "places": (6, 32), "objects": (8, 48), "things": (1, 16)}
    limits |= {"spelling_words": (20, 177), "max_people": (2, 6), "max_places": (2, 6)}
    limits |= {"max_objects": (1, 6), "max_events": (1, 20), "min_turns": (1, 8)}
    for name, (low, high) in limits.items():
        value = getattr(settings, name)
        if not low <= value <= high:
            raise TinyWorldError(f"{name} is {value}: choose a value from {low} to {high}")
    if settings.max_turns < settings.min_turns or settings.max_events < settings.min_events:
        raise TinyWorldError("a minimum is above its maximum: lower min_turns or min_events")


def make_chunk(settings: WorldSettings, name: str, total: int, start: int) -> Chunk:
    """Items start .. start + CHUNK of one stream. Runs in a worker process."""
    chunk = Chunk([], 0, set(), Counter(), set())
    words = 0
    for index in range(start, min(start + CHUNK, total)):
        if name.startswith("pretrain"):
            line = text = pretraining_text(settings, index, total, name)
        else:
            asked = turns(settings, index, total, name.removeprefix("sft-"))
            line = json.dumps(as_conversation(asked))
            text = " ".join(f"{q.ask} {q.answer}" for q in asked)
            chunk.kinds.update(q.kind for q in asked)
            chunk.questions.update(q.ask.rpartition("\n")[2] for q in asked)
        chunk.lines.append(line)
        split = text.split()
        words += len(split)
        chunk.distinct.update(split)
    return chunk._replace(words=words)


def make(settings: WorldSettings, name: str, total: int, workers: int) -> Iterator[Chunk]:
    """All chunks of one stream in order, from several processes when that is worth it."""
    work = partial(make_chunk, settings, name, total)
    starts = range(0, total, CHUNK)
    if workers < 2 or total < 4 * CHUNK:
        yield from map(work, starts)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(work, starts)


class Statistics:
    """What was written into one file, for the manifest."""

    def __init__(self) -> None:
        self.items, self.words = 0, 0
        self.distinct: set[str] = set()
        self.kinds: Counter[str] = Counter()
        self.questions: set[str] = set()

    def add(self, chunk: Chunk) -> None:
        """Count one more piece of what was written."""
        self.items += len(chunk.lines)
        self.words += chunk.words
        self.distinct |= {word.strip('.,:!?"') for word in chunk.distinct}
        self.kinds += chunk.kinds
        self.questions |= chunk.questions

    def as_dict(self) -> dict[str, Any]:
        """The counts as they stand in the manifest."""
        record: dict[str, Any] = {"items": self.items, "words": self.words}
        record["distinct_words"] = len({w.lower() for w in self.distinct if w.isalpha()})
        if self.kinds:
            record["kinds"] = dict(self.kinds.most_common())
            record["distinct_questions"] = len(self.questions)
        return record


def write_parquet(path: Path, lines: list[str]) -> None:
    """One shard of stories, whole or not at all."""
    import pyarrow  # here, so that the workers that only write text start at once
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": lines}), buffer, row_group_size=ROWS_PER_GROUP)
    write_atomically(path, buffer.getvalue())


def write_lines(path: Path, lines: list[str]) -> None:
    write_atomically(path, "".join(line + "\n" for line in lines))


def write_tinyworld(
    directory: Path, settings: WorldSettings, progress: Progress | None = None, workers: int = 0
) -> dict[str, Any]:
    """Write every file into `directory` and return the manifest, which is written last."""
    check_settings(settings)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "manifest.json").unlink(missing_ok=True)  # until the end this is unfinished
    workers = workers or os.cpu_count() or 1
    plan = (
        ("pretrain", "train", settings.documents),
        ("pretrain-val", "val", settings.val_documents),
        ("sft-train", "sft_train", settings.conversations),
        ("sft-val", "sft_val", settings.val_conversations),
    )
    statistics: dict[str, Any] = {}
    for name, file, total in plan:
        tally, lines = Statistics(), list[str]()
        for chunk in make(settings, name, total, workers):
            tally.add(chunk)
            lines += chunk.lines
            if progress:
                progress(file, len(lines), total)
        if file == "train":
            for shard, start in enumerate(range(0, max(1, total), ROWS_PER_SHARD)):
                part = lines[start : start + ROWS_PER_SHARD]
                write_parquet(directory / f"train-{shard:05d}.parquet", part)
        elif file == "val":
            write_parquet(directory / "val.parquet", lines)
        else:
            write_lines(directory / f"{file}.jsonl", lines)
        statistics[file] = tally.as_dict()
    items = exam(settings, settings.exam_per_kind)
    write_lines(directory / "exam.jsonl", [json.dumps(item.as_dict()) for item in items])
    statistics["exam"] = {
        "items": len(items),
        "kinds": dict(Counter(item.kind for item in items)),
        "majority_baseline": majority_baseline(items),
    }
    return write_manifest(directory, settings, statistics)


def write_manifest(
    directory: Path, settings: WorldSettings, statistics: dict[str, Any]
) -> dict[str, Any]:
    """What was written, with which settings, and a checksum of each file."""
    files = sorted(p for p in directory.iterdir() if p.suffix in (".parquet", ".jsonl"))
    manifest = {
        "settings": asdict(settings),
        "statistics": statistics,
        "sha256": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    }
    write_lines(directory / "manifest.json", [json.dumps(manifest, indent=1)])
    return manifest


def load_exam(path: Path) -> list[ExamItem]:
    """The items of an exam.jsonl."""
    if not path.exists():
        raise TinyWorldError(f"there is no exam at {path}: run `nanochat tinyworld-make` first")
    with open(path, encoding="utf-8") as file:
        return [from_dict(json.loads(line)) for line in file]
