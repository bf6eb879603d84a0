"""What every task offers: conversations by number, and a verdict on a reply.

    task[7]                      a conversation that ends with the ideal answer
    task[100:200]                a lazy slice: a Task again, nothing is read for it
    task.grade(7, reply)         is the reply right?
    task.letters(7)              the letters to choose from; () where the answer is free text
    Mixture([(a, 1), (b, 3)])    one epoch of a and three of b, shuffled, still lazy

Called by catalogue.py, chat_sft, chat_rl and chat_eval.
Read: Task -> Slice -> Mixture -> BrokenTask -> field_of.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, overload

import numpy as np

from nanochat.chat_format import Conversation
from nanochat.errors import UserError

LETTERS = "ABCDEFGHIJ"


class BrokenTask(UserError):
    """A row of a task's file is not what the task's schema promises."""


class NothingToGrade(UserError):
    """This task has conversations to learn from, but no verdict on an answer."""


class Task(ABC):
    """A numbered collection of conversations. Nothing is read before it is asked for."""

    name: str = ""
    chance: float = 0.0  # share of right answers that blind guessing gets

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def conversation(self, index: int) -> Conversation:
        """Number `index` (0 <= index < len), ending with the answer one would like to see."""

    def letters(self, index: int) -> tuple[str, ...]:
        """What a multiple-choice question lets one answer; () means that any text may come."""
        return ()

    def kind(self, index: int) -> str:
        """The kind of question, for results kind by kind."""
        return self.name

    def grade(self, index: int, reply: str) -> bool:
        """Is this the right answer to question `index`?"""
        raise NothingToGrade(f"{self.name} is for training: it cannot grade a reply")

    def reward(self, index: int, reply: str) -> float:
        """What reinforcement learning pays for a reply, from 0 to 1."""
        return float(self.grade(index, reply))

    def prompt(self, index: int) -> list[dict[str, Any]]:
        """The messages up to and with the last one from the user."""
        messages = self[index]["messages"]
        return messages[:-1] if messages[-1]["role"] == "assistant" else messages

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> "Task": ...
    def __getitem__(self, index: int | slice) -> "Conversation | Task":
        if isinstance(index, slice):
            return Slice(self, range(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} conversations, not number {index}")
        return self.conversation(index % len(self))

    def __iter__(self) -> Iterator[Conversation]:
        return (self.conversation(index) for index in range(len(self)))


class Slice(Task):
    """Some of a task's conversations: a range of numbers and the task they belong to."""

    def __init__(self, task: Task, numbers: range) -> None:
        self.task, self.numbers = task, numbers
        self.name, self.chance = task.name, task.chance

    def __len__(self) -> int:
        return len(self.numbers)

    def conversation(self, index: int) -> Conversation:
        return self.task.conversation(self.numbers[index])

    def letters(self, index: int) -> tuple[str, ...]:
        return self.task.letters(self.numbers[index])

    def kind(self, index: int) -> str:
        return self.task.kind(self.numbers[index])

    def grade(self, index: int, reply: str) -> bool:
        return self.task.grade(self.numbers[index], reply)


class Mixture(Task):
    """Several tasks shuffled into one; (task, 3) goes through that task three times.

    What is kept is one shuffled list of numbers. A number is found in its task by bisection, so a
    mixture of a million conversations costs a few megabytes and reads no file.
    """

    def __init__(
        self, parts: Sequence[tuple[Task, int]], seed: int = 42, name: str = "mixture"
    ) -> None:
        if not parts or any(times < 1 or not len(task) for task, times in parts):
            shown = ", ".join(f"{len(task)} of {task.name} x {times}" for task, times in parts)
            raise BrokenTask(f"a mixture of {shown or 'nothing'}: every part needs a row or more")
        self.name, self.parts = name, list(parts)
        self.starts = [0, *accumulate(len(task) * times for task, times in self.parts)]
        self.order = np.random.default_rng(seed).permutation(self.starts[-1])

    def __len__(self) -> int:
        return self.starts[-1]

    def find(self, index: int) -> tuple[Task, int]:
        """The task that conversation `index` of the mixture comes from, and its number there."""
        place = int(self.order[index])
        part = bisect_right(self.starts, place) - 1
        task = self.parts[part][0]
        return task, (place - self.starts[part]) % len(task)

    def conversation(self, index: int) -> Conversation:
        task, number = self.find(index)
        return task.conversation(number)

    def letters(self, index: int) -> tuple[str, ...]:
        task, number = self.find(index)
        return task.letters(number)

    def kind(self, index: int) -> str:
        task, number = self.find(index)
        return task.kind(number)

    def grade(self, index: int, reply: str) -> bool:
        task, number = self.find(index)
        return task.grade(number, reply)


def field_of(row: dict[str, Any], name: str, kind: type, where: str) -> Any:
    """row[name], which must be a `kind`. Raises BrokenTask that names the place.

    >>> field_of({"answer": 2}, "answer", int, "mmlu.parquet, row 0")
    2
    """
    value = row.get(name)
    if not isinstance(value, kind):
        raise BrokenTask(
            f"{where}: {name!r} is {value!r:.60}, it must be a {kind.__name__}: fetch the file "
            "again, or mend that row"
        )
    return value


def dialogue(question: str, answer: str | list[dict[str, str]]) -> Conversation:
    """One question and its ideal answer as a conversation."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}
