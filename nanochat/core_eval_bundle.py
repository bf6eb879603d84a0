"""The tasks of CORE as files: the DCLM bundle, or a small one made of TinyWorld's exam.

    <bundle>/core.yaml            icl_tasks: label, icl_task_type, dataset_uri, num_fewshot, ...
    <bundle>/eval_meta_data.csv   columns "Eval Task" and "Random baseline" (per cent)
    <bundle>/eval_data/*.jsonl    {query, choices, gold} | {context_options, continuation, gold}
                                  | {context, continuation}
Called by scripts/base_eval.py and task_download.py. Both bundles have the same form, so that
everything is tried offline. Read: CoreTask -> read_bundle -> prompts -> examples_of ->
fetch_bundle.
"""

import csv
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from nanochat.atomic import sync_folder
from nanochat.core_eval import Example
from nanochat.dataset import DataMissing
from nanochat.download import Hub, Report
from nanochat.download_address import fetch_address
from nanochat.errors import UserError
from nanochat.paths import data_dir
from nanochat.tokenizer import Tokenizer

BUNDLE_URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
FIELDS = {
    "multiple_choice": ("query", "choices", "gold"),
    "schema": ("context_options", "continuation", "gold"),
    "language_modeling": ("context", "continuation"),
}
SHUFFLE_SEED, SHOTS_SEED = 1337, 1234  # as in the reference, so that figures can be compared


class BundleBroken(UserError):
    """A file of the bundle is missing, or a row of it is not what its kind of task needs."""


@dataclass(frozen=True)
class CoreTask:
    """One task of the bundle."""

    label: str
    kind: str  # multiple_choice | schema | language_modeling
    file: Path
    shots: int  # solved examples in front of each question
    delimiter: str  # between a question and its answer
    chance: float  # share of right answers that guessing gets


def bundle_dir(name: str) -> Path:
    """`dclm` or `tinyworld`, or the path of a bundle of one's own."""
    if name in ("dclm", "tinyworld"):
        return data_dir("tasks") / f"core-{name}"
    return Path(name).expanduser()


def read_bundle(folder: Path) -> list[CoreTask]:
    """Every task named in core.yaml. Raises BundleBroken."""
    try:
        listed = yaml.safe_load((folder / "core.yaml").read_text(encoding="utf-8"))["icl_tasks"]
        with open(folder / "eval_meta_data.csv", encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file))
        chances = {row["Eval Task"]: float(row["Random baseline"]) for row in table}
        tasks = [
            CoreTask(
                label=entry["label"],
                kind=entry["icl_task_type"],
                file=folder / "eval_data" / entry["dataset_uri"],
                shots=int(entry["num_fewshot"][0]),
                delimiter=entry.get("continuation_delimiter", " "),
                chance=chances[entry["label"]] / 100,
            )
            for entry in listed
        ]
    except (OSError, KeyError, TypeError, ValueError, IndexError, yaml.YAMLError) as error:
        raise BundleBroken(
            f"{folder} is no CORE bundle ({type(error).__name__}: {error}): delete it and run "
            "`nanochat task-download --tasks core`"
        ) from error
    unknown = [task.label for task in tasks if task.kind not in FIELDS]
    if unknown or not tasks:
        raise BundleBroken(f"{folder}: no kind of task we know: {', '.join(unknown) or 'none'}")
    return tasks


def read_rows(task: CoreTask) -> list[dict[str, Any]]:
    """The rows of a task, checked, in the reference's shuffled order."""
    try:
        lines = task.file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BundleBroken(f"{task.label}: {task.file} is missing ({error.strerror})") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            missing = [name for name in FIELDS[task.kind] if name not in row]
            options = row.get("choices") or row.get("context_options")
            if not missing and options is not None:
                missing = [] if 0 <= row["gold"] < len(options) else ["a gold within the options"]
        except (ValueError, TypeError, AttributeError) as error:
            raise BundleBroken(f"{task.file}, line {number}: {error}") from error
        if missing:
            raise BundleBroken(f"{task.file}, line {number} lacks {', '.join(missing)}")
        rows.append(row)
    if not rows:
        raise BundleBroken(f"{task.file} holds no row")
    Random(SHUFFLE_SEED).shuffle(rows)
    return rows


def solved(task: CoreTask, row: dict[str, Any]) -> str:
    """A row with its answer, as it stands in front of the question."""
    if task.kind == "multiple_choice":
        return f"{row['query']}{task.delimiter}{row['choices'][row['gold']]}"
    if task.kind == "schema":
        return f"{row['context_options'][row['gold']]}{task.delimiter}{row['continuation']}"
    return f"{row['context'].strip()}{task.delimiter}{row['continuation']}"


def prompts(task: CoreTask, row: dict[str, Any], shots: Sequence[dict[str, Any]]) -> list[str]:
    """The texts to compare: one for each option; for language_modeling without and with the end."""
    lead = "".join(solved(task, shot) + "\n\n" for shot in shots)
    if task.kind == "multiple_choice":
        return [f"{lead}{row['query']}{task.delimiter}{choice}" for choice in row["choices"]]
    if task.kind == "schema":
        ends = f"{task.delimiter}{row['continuation']}"
        return [f"{lead}{option}{ends}" for option in row["context_options"]]
    start = f"{lead}{row['context'].strip()}{task.delimiter}"
    return [start.rstrip(), start + row["continuation"]]


def shared(rows: Sequence[Sequence[int]]) -> int:
    """How many first tokens all rows have in common."""
    count = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return count


def example_of(task: CoreTask, rows: list[list[int]], gold: int) -> Example:
    """Token rows -> prefix, branches and what of them is scored."""
    if task.kind == "language_modeling":
        whole = rows[1]
        start = min(shared(rows), len(whole) - 1)
        return Example(whole[:start], [whole[start:]], [len(whole) - start])
    shortest = min(map(len, rows))
    start = min(shared(rows), shortest - 1)
    branches = [row[start:] for row in rows]
    if task.kind == "multiple_choice":
        return Example(rows[0][:start], branches, [len(b) for b in branches], gold)
    ending = min(shared([row[::-1] for row in rows]), shortest - start)
    return Example(rows[0][:start], branches, [max(1, ending)] * len(rows), gold)


def examples_of(task: CoreTask, tokenizer: Tokenizer, at_most: int = 0) -> list[Example]:
    """The first `at_most` (0: all) examples of a task; solved ones are drawn from all the rows."""
    rows = read_rows(task)
    bos = tokenizer.special("bos")
    found = []
    for number, row in enumerate(rows[: at_most or None]):
        others = [i for i in range(len(rows)) if i != number]
        drawn = Random(SHOTS_SEED + number).sample(others, min(task.shots, len(others)))
        texts = prompts(task, row, [rows[i] for i in drawn])
        ids = [[bos, *tokenizer.encode(text)] for text in texts]
        found.append(example_of(task, ids, row.get("gold", 0)))
    return found


def fetch_bundle(hub: Hub, report: Report | None = None) -> int:
    """Fetch and unpack the DCLM bundle unless it is there; returns how many files came, 0 or 1."""
    folder = bundle_dir("dclm")
    if (folder / "core.yaml").is_file():
        return 0
    archive = data_dir("tasks") / "eval_bundle.zip"
    fetched = fetch_address(BUNDLE_URL, archive, hub, report)
    unpack(archive, folder)
    return fetched


def unpack(archive: Path, folder: Path) -> None:
    """The archive's one folder becomes `folder`; until all of it is out, under another name."""
    draft = folder.with_name(f".unpacking-{folder.name}")
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(draft)  # refuses paths that lead outside
    except zipfile.BadZipFile as error:
        archive.unlink()
        raise DataMissing(f"{archive} is damaged ({error}): run the same command again") from error
    inner = next((p.parent for p in draft.rglob("core.yaml")), draft)
    inner.rename(folder)
    sync_folder(folder.parent)
