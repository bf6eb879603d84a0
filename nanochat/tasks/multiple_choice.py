"""Questions with lettered answers: how they are written, and what counts as right.

Called by mmlu.py and arc.py. Read: question_text -> MultipleChoice.

The letter comes after its choice, without a space before it: so the letter is the same token in the
question ("=B") as in the answer, and a small model can copy what it has just read.
"""

from collections.abc import Sequence

from nanochat.chat_format import Conversation
from nanochat.tasks.task import LETTERS, Task, dialogue


def question_text(question: str, letters: Sequence[str], choices: Sequence[str]) -> str:
    """
    >>> print(question_text("2 + 2?", "AB", ["4", "5"]))
    Multiple Choice question: 2 + 2?
    - 4=A
    - 5=B
    <BLANKLINE>
    Respond only with the letter of the correct answer.
    """
    lines = [f"- {choice}={letter}" for letter, choice in zip(letters, choices, strict=True)]
    listed = "\n".join(lines)
    return (
        f"Multiple Choice question: {question}\n{listed}\n\n"
        "Respond only with the letter of the correct answer."
    )


class MultipleChoice(Task):
    """A task whose questions have lettered choices; subclasses say what question `index` is."""

    def question(self, index: int) -> tuple[str, Sequence[str], int]:
        """(question, choices, place of the right one)."""
        raise NotImplementedError

    def conversation(self, index: int) -> Conversation:
        question, choices, right = self.question(index)
        letters = LETTERS[: len(choices)]
        return dialogue(question_text(question, letters, choices), letters[right])

    def letters(self, index: int) -> tuple[str, ...]:
        return tuple(LETTERS[: len(self.question(index)[1])])

    def grade(self, index: int, reply: str) -> bool:
        """The letter alone, as it was asked for."""
        return reply.strip() == LETTERS[self.question(index)[2]]
