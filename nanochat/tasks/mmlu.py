"""MMLU: 57 subjects from law to virology, four choices each (Hendrycks 2020, cais/mmlu).

Called by catalogue.py. `train` is the auxiliary set of 100 thousand questions gathered from other
exams, `test` has 14 thousand. A row: question, subject, choices (four texts), answer (0 to 3).
"""

from collections.abc import Sequence

from nanochat.tasks.multiple_choice import MultipleChoice
from nanochat.tasks.table import HubFiles, Table, check_columns
from nanochat.tasks.task import BrokenTask, field_of

SPLITS = {"train": "auxiliary_train", "validation": "validation", "test": "test", "dev": "dev"}


def files(split: str) -> HubFiles:
    return HubFiles("mmlu", "cais/mmlu", (f"all/{SPLITS[split]}-00000-of-00001.parquet",))


class MMLU(MultipleChoice):
    """General knowledge by subject."""

    name, chance = "mmlu", 0.25

    def __init__(self, table: Table) -> None:
        check_columns(table, ("question", "subject", "choices", "answer"))
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def question(self, index: int) -> tuple[str, Sequence[str], int]:
        """(question, choices, number of the right one)."""
        row, where = self.table[index], self.table.where(index)
        choices = field_of(row, "choices", list, where)
        answer = field_of(row, "answer", int, where)
        if len(choices) != 4 or not 0 <= answer < 4:
            raise BrokenTask(f"{where}: {len(choices)} choices, answer {answer}: there must be 4")
        return field_of(row, "question", str, where), choices, answer

    def kind(self, index: int) -> str:
        return str(self.table[index]["subject"] or self.name)
