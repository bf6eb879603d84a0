"""GSM8K: word problems of grade-school mathematics with worked answers (Cobbe 2021, openai/gsm8k).

Called by catalogue.py. A row: question, answer. In the answer `<<48/2=24>>` marks what a calculator
did, and the last line is `#### 72`. Read: parts_of_answer -> final_number -> GSM8K.
"""

import re

from nanochat.chat_format import Conversation
from nanochat.tasks.table import HubFiles, Table, check_columns
from nanochat.tasks.task import BrokenTask, Task, dialogue, field_of

CALL = re.compile(r"<<([^<>=]+)=([^<>]*)>>")
FINAL = re.compile(r"#### (-?[0-9.,]+)")


def files(split: str) -> HubFiles:
    return HubFiles("gsm8k", "openai/gsm8k", (f"main/{split}-00000-of-00001.parquet",))


def parts_of_answer(answer: str) -> list[dict[str, str]]:
    """The worked answer with its calculations as tool calls.

    >>> [part["text"] for part in parts_of_answer("48/2 = <<48/2=24>>24 clips\\n#### 24")]
    ['48/2 = ', '48/2', '24', '24 clips\\n#### 24']
    """
    parts, at = [], 0
    for call in CALL.finditer(answer):
        parts.append({"type": "text", "text": answer[at : call.start()]})
        parts.append({"type": "python", "text": call[1]})
        parts.append({"type": "python_output", "text": call[2]})
        at = call.end()
    parts.append({"type": "text", "text": answer[at:]})
    return [part for part in parts if part["text"]]


def final_number(text: str) -> str | None:
    """What stands behind the first ####, without thousands separators.

    >>> final_number("so 1,200 in all\\n#### 1,200"), final_number("twelve")
    ('1200', None)
    """
    found = FINAL.search(text)
    return found[1].replace(",", "").rstrip(".") if found else None


class GSM8K(Task):
    """A word problem; right is the number behind ####."""

    name = "gsm8k"

    def __init__(self, table: Table) -> None:
        check_columns(table, ("question", "answer"))
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def _answer(self, index: int) -> str:
        where = self.table.where(index)
        answer: str = field_of(self.table[index], "answer", str, where)
        if final_number(answer) is None:
            raise BrokenTask(f"{where}: the answer has no line '#### number'")
        return answer

    def conversation(self, index: int) -> Conversation:
        question = field_of(self.table[index], "question", str, self.table.where(index))
        return dialogue(question, parts_of_answer(self._answer(index)))

    def grade(self, index: int, reply: str) -> bool:
        return final_number(reply) == final_number(self._answer(index))
