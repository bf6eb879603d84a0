"""Conversations of one's own: a JSONL file, one conversation a line.

Called by catalogue.py for `--tasks path/to/file.jsonl`. A line is {"messages": [...]} or the list
of messages alone. Every line is checked when the file is opened, and the first bad one is named,
so that no run stops at it hours later.
"""

import json
from pathlib import Path
from typing import Any

from nanochat.chat_format import BadConversation, Conversation, segments
from nanochat.tasks.task import BrokenTask, Task

EXPECTED = '{"messages": [{"role": "user", "content": "..."}, ...]}'


class CustomJSON(Task):
    """The lines of a file. Only where each line begins is kept; a line is read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        if not path.is_file():
            raise BrokenTask(f"there is no file {path}: a line of it would be {EXPECTED}")
        self.offsets: list[int] = []
        with open(path, "rb") as file:
            number = 0
            while line := file.readline():
                number += 1
                if line.strip():
                    conversation_of(line, f"{path}, line {number}")
                    self.offsets.append(file.tell() - len(line))
        if not self.offsets:
            raise BrokenTask(f"{path} is empty: a line of it would be {EXPECTED}")

    def __len__(self) -> int:
        return len(self.offsets)

    def conversation(self, index: int) -> Conversation:
        with open(self.path, "rb") as file:
            file.seek(self.offsets[index])
            return conversation_of(file.readline(), f"{self.path}, conversation {index}")


def conversation_of(line: bytes, where: str) -> Conversation:
    """One line as a conversation whose last message is the assistant's. Raises BrokenTask."""
    try:
        row: Any = json.loads(line)
        conversation: Any = {"messages": row} if isinstance(row, list) else row
        list(segments(conversation))  # the whole of it, as the tokenizer will read it
        messages = conversation["messages"]
    except (ValueError, BadConversation) as error:
        raise BrokenTask(f"{where} is not {EXPECTED} ({error})") from error
    if messages[-1]["role"] != "assistant":
        raise BrokenTask(f"{where} ends with a question: the assistant has the last word")
    return conversation
