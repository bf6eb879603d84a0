"""TinyWorld's questions as a task: the held-out exam, or fresh training questions by number.

Called by catalogue.py and chat_rl. `Exam` has the items of exam.jsonl. `Practice` draws question
`index` from its own stream on the training side of the wall (tinyworld_settings.held_out), so it
never ends, and no question of it can be in the exam. Read: Exam -> Practice.
"""

from collections.abc import Sequence
from functools import lru_cache

from nanochat.chat_format import Conversation
from nanochat.tasks.task import Task, dialogue
from nanochat.tinyworld import TinyWorldError
from nanochat.tinyworld_exam import KINDS, ExamItem, grade, majority_baseline, practice
from nanochat.tinyworld_settings import WorldSettings


class Exam(Task):
    """Held-out questions with a strict grader."""

    name = "tinyworld"

    def __init__(self, items: Sequence[ExamItem]) -> None:
        self.items = list(items)
        guess = majority_baseline(self.items)
        self.chance = sum(guess[item.kind] for item in self.items) / max(1, len(self.items))

    def __len__(self) -> int:
        return len(self.items)

    def conversation(self, index: int) -> Conversation:
        item = self.items[index]
        answer = {"role": "assistant", "content": item.answer}
        return {"messages": [*item.messages, answer]}

    def kind(self, index: int) -> str:
        return self.items[index].kind

    def grade(self, index: int, reply: str) -> bool:
        return grade(self.items[index], reply)


class Practice(Task):
    """`size` training questions of these kinds in turn, the same for the same seed."""

    name = "tinyworld-practice"

    def __init__(
        self, size: int, kinds: Sequence[str], seed: int = 0, settings: WorldSettings | None = None
    ) -> None:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            raise TinyWorldError(
                f"no questions of kind {', '.join(unknown) or 'nothing'}: choose of "
                f"{', '.join(KINDS)}"
            )
        self.size, self.kinds, self.seed = size, tuple(kinds), seed
        self.settings = settings or WorldSettings()
        self.item = lru_cache(maxsize=1024)(self._draw)

    def __len__(self) -> int:
        return self.size

    def kind(self, index: int) -> str:
        return self.kinds[index % len(self.kinds)]

    def _draw(self, index: int) -> ExamItem:
        return practice(self.settings, self.kind(index), index // len(self.kinds), self.seed)

    def conversation(self, index: int) -> Conversation:
        item = self.item(index)
        return dialogue(str(item.messages[0]["content"]), item.answer)

    def grade(self, index: int, reply: str) -> bool:
        return grade(self.item(index), reply)
