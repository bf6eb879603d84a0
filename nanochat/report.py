"""What each stage measured, kept as one JSON record a stage, and the report made of them.

Called by every training and evaluation script (`record`), by scripts/report.py (`read_report`,
`summary`). Read: record -> load -> Report -> read_report -> summary.

    <report>/base.json     val_bpb, curve, tokens, seconds, tokens_per_s, parameters
    <report>/sft.json      the same for fine-tuning
    <report>/rl.json       before, after: {kind: accuracy}, practised, seeds: one record each
    <report>/exam.json     overall, questions, kinds: {kind: {accuracy, n, majority}}
    <report>/stages.json   seconds of each stage of the build (written by stages.py)
    <report>/card.md, card.html   the card for people, with its pictures: report_card.py

A record is a dictionary of plain JSON values. Nothing here imports torch or knows a model.
"""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.atomic import write_atomically
from nanochat.errors import UserError
from nanochat.paths import report_dir

Record = dict[str, Any]
RECORD_NAME = re.compile(r"[a-z][a-z0-9_-]*")
MAKER = {  # record -> the command that writes it
    "base": "nanochat base-train",
    "sft": "nanochat chat-sft",
    "rl": "nanochat chat-rl",
    "exam": "nanochat chat-eval",
    "stages": "make build",
}


class RecordMissing(UserError):
    """A number was asked for that nobody has measured here yet."""


class RecordBroken(UserError):
    """A record exists but is not what a stage writes."""


@dataclass(frozen=True)
class Report:
    """All the records that are there; a missing one is None or empty."""

    base: Record | None = None
    sft: Record | None = None
    exam: Record | None = None
    tokenizer: Record | None = None
    stages_s: dict[str, float] = field(default_factory=dict)  # stage -> seconds
    rl: Record | None = None


def record(stage: str, data: Record) -> Path:
    """Keep `data` as the newest record of `stage`, whole or not at all; returns its file."""
    assert RECORD_NAME.fullmatch(stage) and stage != "stages", f"not a record's name: {stage!r}"
    path = report_dir() / f"{stage}.json"
    write_atomically(path, json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return path


def load(stage: str) -> Record | None:
    """The newest record of `stage`, or None when there is none."""
    path = report_dir() / f"{stage}.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RecordBroken(f"{path} is not JSON ({error}); {remedy(stage)}") from None
    if not isinstance(data, dict):
        raise RecordBroken(f"{path} holds no record; {remedy(stage)}")
    return data


def remedy(stage: str) -> str:
    return f"run `{MAKER.get(stage, 'make build')}` to make it again"


def read_report() -> Report:
    """Every record under report_dir(), checked as far as the card depends on it."""
    exam = load("exam")
    if exam is not None:
        check_exam(exam)
    reinforced = load("rl")
    if reinforced is not None:
        check_reinforced(reinforced)
    return Report(load("base"), load("sft"), exam, load("tokenizer"), stage_seconds(), reinforced)


def check_reinforced(found: Record) -> None:
    """Shares of right answers of the same kinds, before and after."""
    before, after = found.get("before"), found.get("after")
    if (
        not isinstance(before, dict)
        or not isinstance(after, dict)
        or before.keys() != after.keys()
        or not all(map(is_share, [*before.values(), *after.values()]))
    ):
        raise RecordBroken(f"{report_dir() / 'rl.json'} is not chat-rl's; {remedy('rl')}")


def check_exam(exam: Record) -> None:
    """The exam is what the card and `--json` promise: shares of right answers, by kind."""
    kinds = exam.get("kinds")
    shares = [exam.get("overall")]
    if isinstance(kinds, dict):
        shares += [
            kind.get("accuracy") if isinstance(kind, dict) else None for kind in kinds.values()
        ]
    if not kinds or not all(is_share(share) for share in shares):
        raise RecordBroken(f"{report_dir() / 'exam.json'} holds no exam; {remedy('exam')}")


def is_share(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1


def stage_seconds() -> dict[str, float]:
    """Stage -> seconds, in the order they ran; a stage that never finished is left out."""
    ledger = load("stages") or {}
    try:
        return {
            name: float(entry["seconds"])
            for name, entry in ledger.items()
            if entry["state"] == "done"
        }
    except (KeyError, TypeError, ValueError):
        raise RecordBroken(
            f"{report_dir() / 'stages.json'} is not a build's; {remedy('stages')}"
        ) from None


def summary(report: Report) -> Record:
    """The report's figures for a program: exam, seconds of each stage, bits per byte."""
    exam, base = needed(report.exam, "exam"), needed(report.base, "base")
    if not isinstance(base.get("val_bpb"), int | float):
        raise RecordBroken(f"{report_dir() / 'base.json'} has no val_bpb; {remedy('base')}")
    return {
        "exam": {
            "overall": exam["overall"],
            "questions": exam.get("questions"),
            "kinds": exam["kinds"],
        },
        "stages_s": report.stages_s,
        "val_bpb": base["val_bpb"],
    }


def needed(found: Record | None, stage: str) -> Record:
    """The record, or the sentence that says how to make it."""
    if found is None:
        raise RecordMissing(
            f"no {stage} record in {report_dir()}; run `make build`, or `{MAKER[stage]}` alone"
        )
    return found
