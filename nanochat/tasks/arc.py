"""ARC: science questions of grades 3 to 9 in an easy and a challenging set (Clark 2018).

Called by catalogue.py. A row: id, question, choices {text: [...], label: [...]}, answerKey.
Most rows have choices A to D; some are labelled 1 to 4, and some have three or five.
"""

from collections.abc import Sequence

from nanochat.tasks.multiple_choice import MultipleChoice
from nanochat.tasks.table import HubFiles, Table, check_columns
from nanochat.tasks.task import BrokenTask, field_of

SETS = {"easy": "ARC-Easy", "challenge": "ARC-Challenge"}


def files(which: str, split: str) -> HubFiles:
    path = f"{SETS[which]}/{split}-00000-of-00001.parquet"
    return HubFiles(f"arc-{which}", "allenai/ai2_arc", (path,))


class ARC(MultipleChoice):
    """Grade-school science; `which` is easy or challenge."""

    chance = 0.25

    def __init__(self, table: Table, which: str) -> None:
        check_columns(table, ("question", "choices", "answerKey"))
        self.table, self.name = table, f"arc-{which}"

    def __len__(self) -> int:
        return len(self.table)

    def question(self, index: int) -> tuple[str, Sequence[str], int]:
        """(question, choices, number of the right one)."""
        row, where = self.table[index], self.table.where(index)
        choices = field_of(row, "choices", dict, where)
        texts = field_of(choices, "text", list, where)
        labels = field_of(choices, "label", list, where)
        key = field_of(row, "answerKey", str, where)
        if key not in labels or len(labels) != len(texts):
            raise BrokenTask(f"{where}: answer {key!r} is none of the choices {labels}")
        return field_of(row, "question", str, where), texts, labels.index(key)
