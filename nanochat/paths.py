"""Where things live on disk. The only place that reads NANOCHAT_BASE_DIR.

    <base>/tokenizer/                      tokenizer.json, token_bytes, compression report
    <base>/data/<name>/                    parquet shards, conversations, exams
    <base>/checkpoints/<stage>/<tag>/      step_000123/ directories
    <base>/report/                         what each stage measured, the card and its pictures

The default base is `.nanochat/` beside the code, so a clone's models live and die with the clone.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the checkout


def base_dir() -> Path:
    """The folder for everything that is made rather than written; not created here."""
    return Path(os.environ.get("NANOCHAT_BASE_DIR") or ROOT / ".nanochat").expanduser().resolve()


def tokenizer_dir() -> Path:
    return base_dir() / "tokenizer"


def data_dir(name: str) -> Path:
    return base_dir() / "data" / name


def checkpoints_dir(stage: str, tag: str) -> Path:
    """`stage` is base, sft or rl; `tag` names a run, d4 for a model of depth 4 by default."""
    return base_dir() / "checkpoints" / stage / tag


def report_dir() -> Path:
    return base_dir() / "report"
