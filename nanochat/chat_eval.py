"""How good the answers are: put an exam to the model and count, kind by kind.

Called by scripts/chat_eval.py. What a question is and what counts as right arrive as arguments, so
this file knows no particular exam. Read: Answerer -> take_exam -> ExamResult.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar


class Item(Protocol):
    """A question of some kind; `messages` end with the user's."""

    @property
    def kind(self) -> str: ...
    @property
    def messages(self) -> list[dict[str, Any]]: ...


I = TypeVar("I", bound=Item)  # noqa: E741
Answerer = Callable[[Sequence[list[dict[str, Any]]]], list[str]]  # conversations -> replies


@dataclass
class ExamResult:
    """Right or wrong for every question, and the replies that were wrong."""

    marks: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    wrong: list[tuple[str, str, str]] = field(default_factory=list)  # kind, question, reply

    @property
    def questions(self) -> int:
        return sum(map(len, self.marks.values()))

    @property
    def overall(self) -> float:
        """Share of all questions answered rightly."""
        return sum(map(sum, self.marks.values())) / self.questions

    def record(self, majority: dict[str, float]) -> dict[str, Any]:
        """For the report: accuracy by kind beside what always giving the commonest answer gets."""
        return {
            "overall": self.overall,
            "questions": self.questions,
            "kinds": {
                kind: {
                    "accuracy": sum(marks) / len(marks),
                    "n": len(marks),
                    "majority": majority[kind],
                }
                for kind, marks in self.marks.items()
            },
        }


def take_exam(items: Sequence[I], answer: Answerer, grade: Callable[[I, str], bool]) -> ExamResult:
    """Put every item to `answer` at once and grade the replies."""
    result = ExamResult()
    replies = answer([item.messages for item in items])
    for item, reply in zip(items, replies, strict=True):
        right = grade(item, reply)
        result.marks[item.kind].append(right)
        if not right:
            result.wrong.append((item.kind, str(item.messages[-1]["content"]), reply))
    return result
