"""Small files in the true schemas of the hub's datasets, written where the tasks look for them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from nanochat.tasks import arc, gsm8k, humaneval, mmlu, smoltalk
from nanochat.tasks.table import HubFiles

TEXT, TEXTS = pyarrow.string(), pyarrow.list_(pyarrow.string())
MMLU = pyarrow.schema(
    [("question", TEXT), ("subject", TEXT), ("choices", TEXTS), ("answer", pyarrow.int64())]
)
ARC = pyarrow.schema(
    [
        ("id", TEXT),
        ("question", TEXT),
        ("choices", pyarrow.struct([("text", TEXTS), ("label", TEXTS)])),
        ("answerKey", TEXT),
    ]
)
GSM8K = pyarrow.schema([("question", TEXT), ("answer", TEXT)])
HUMANEVAL = pyarrow.schema(
    [(name, TEXT) for name in ("task_id", "prompt", "canonical_solution", "test", "entry_point")]
)
MESSAGE = pyarrow.struct([("content", TEXT), ("role", TEXT)])
SMOLTALK = pyarrow.schema([("messages", pyarrow.list_(MESSAGE)), ("source", TEXT)])

MMLU_ROWS = [
    {"question": "2+2?", "subject": "arithmetic", "choices": ["3", "4", "5", "6"], "answer": 1},
    {"question": "Red?", "subject": "", "choices": ["a", "b", "c", "d"], "answer": 3},
    {"question": "Sky?", "subject": "art", "choices": ["red", "up", "blue", "sea"], "answer": 2},
]
ARC_ROWS = [
    {
        "id": "x1",
        "question": "What melts?",
        "choices": {"text": ["ice", "stone", "wind"], "label": ["1", "2", "3"]},
        "answerKey": "1",
    },
    {
        "id": "x2",
        "question": "What flies?",
        "choices": {"text": ["cow", "bird", "fish", "dog", "cat"], "label": list("ABCDE")},
        "answerKey": "B",
    },
]
GSM8K_ROWS = [
    {
        "question": "48 and half of it?",
        "answer": "48/2 = <<48/2=24>>24\n48+24 = <<48+24=72>>72\n#### 72",
    },
    {"question": "How many in all?", "answer": "It is 1,200.\n#### 1,200"},
]
HUMANEVAL_ROWS = [
    {
        "task_id": "HumanEval/0",
        "prompt": "import math\nfrom typing import List\n\n\n"
        'def root(x: float) -> float:\n    """Square root."""\n',
        "canonical_solution": "    return math.sqrt(x)\n",
        "test": "def check(candidate):\n    assert candidate(9) == 3\n",
        "entry_point": "root",
    }
]
SMOLTALK_ROWS = [
    {
        "messages": [
            {"content": "Be brief.", "role": "system"},
            {"content": "Hi", "role": "user"},
            {"content": "Hello!", "role": "assistant"},
        ],
        "source": "everyday",
    },
    {
        "messages": [
            {"content": "Name a colour", "role": "user"},
            {"content": "Blue.", "role": "assistant"},
        ],
        "source": "everyday",
    },
]


def parquet_bytes(rows: Sequence[dict[str, Any]], schema: pyarrow.Schema, group: int = 2) -> bytes:
    """A parquet file with row groups of `group` rows."""
    buffer = io.BytesIO()
    table = pyarrow.Table.from_pylist(list(rows), schema=schema)
    parquet.write_table(table, buffer, row_group_size=group)
    return buffer.getvalue()


def put(files: HubFiles, rows: Sequence[dict[str, Any]], schema: pyarrow.Schema) -> list[Path]:
    """Write the same rows into every file of a split, as if it had been fetched."""
    for path in files.local():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(parquet_bytes(rows, schema))
    return files.local()


def put_all() -> None:
    """Every split of every task."""
    for split in ("train", "test"):
        put(mmlu.files(split), MMLU_ROWS, MMLU)
        put(gsm8k.files(split), GSM8K_ROWS, GSM8K)
        put(smoltalk.files(split), SMOLTALK_ROWS, SMOLTALK)
        for which in ("easy", "challenge"):
            put(arc.files(which, split), ARC_ROWS, ARC)
    put(humaneval.files("test"), HUMANEVAL_ROWS, HUMANEVAL)
