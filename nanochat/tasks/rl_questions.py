"""What reinforcement asks and how it measures: questions by kind and number, from any task.

Called by scripts/chat_rl.py. A task that can grade a reply can be reinforced: TinyWorld, GSM8K,
spelling, a mixture of them. Read: Asked -> Questions -> open_questions -> weak_kinds
-> wanted_kinds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.errors import UserError
from nanochat.tasks.catalogue import open_task
from nanochat.tasks.task import Task
from nanochat.tasks.tinyworld_qa import Exam, Practice
from nanochat.tinyworld_exam import KINDS, ExamItem, as_item, draw
from nanochat.tinyworld_settings import WorldSettings, stream

TRIES = 40  # draws for each item wanted: some kinds have few different questions
MASTERED = 0.9  # above this a kind needs no practice
UNDERSTOOD = 0.1  # and below this, of the way from guessing to perfect, practice finds no hold


class NoSuchKind(UserError):
    """A kind of question was named that the task does not have."""


@dataclass(frozen=True)
class Asked:
    """One question of a task."""

    kind: str
    messages: list[dict[str, Any]]
    task: Task
    number: int

    def reward(self, reply: str) -> float:
        return self.task.reward(self.number, reply)


class Questions:
    """Questions without end, by kind; question `number` of a kind is always the same."""

    def __init__(self, tasks: dict[str, Task]) -> None:
        self.tasks = tasks

    @property
    def kinds(self) -> list[str]:
        return list(self.tasks)

    def ask(self, kind: str, number: int) -> Asked:
        task = self.tasks[kind]
        number %= len(task)
        return Asked(kind, task.prompt(number), task, number)

    def some(self, per_kind: int) -> list[Asked]:
        """The first few of every kind."""
        return [
            self.ask(kind, n)
            for kind, task in self.tasks.items()
            for n in range(per_kind)[: len(task)]
        ]


def open_questions(name: str, seed: int, held_out: int) -> tuple[Questions, Questions]:
    """(to practise with, `held_out` of each kind to measure with) of a task by its name."""
    if name == "tinyworld":
        world = WorldSettings()
        practice: dict[str, Task] = {k: Practice(10**9, (k,), seed, world) for k in KINDS}
        unseen: dict[str, Task] = {k: Exam(exam_items(world, k, held_out)) for k in KINDS}
        return Questions(practice), Questions(unseen)
    train, test = open_task(name, "train"), open_task(name, "test")
    return Questions({name: train}), Questions({name: test[:held_out]})


def wanted_kinds(practised: Sequence[str], every: Sequence[str], retain: float) -> dict[str, float]:
    """How often each kind is wanted: 1 for what is practised, `retain` for the rest.

    >>> wanted_kinds(["b"], ["a", "b"], 0.25)
    {'a': 0.25, 'b': 1.0}
    """
    unknown = [kind for kind in practised if kind not in every]
    if unknown:
        raise NoSuchKind(f"no questions of kind {unknown[0]!r}: choose of {', '.join(every)}")
    return {kind: 1.0 if kind in practised or not practised else retain for kind in every}


def exam_items(world: WorldSettings, kind: str, count: int) -> list[ExamItem]:
    """`count` different held-out questions of a kind, or as many as are found. The first are those
    of the exam that `nanochat chat-eval` puts."""
    rng, items = stream(world.seed, f"exam-{kind}"), dict[str, ExamItem]()
    for _ in range(TRIES * count):
        question = draw(rng, world, kind, len(items))
        if question is not None and question.ask not in items:
            items[question.ask] = as_item(kind, question)
            if len(items) == count:
                break
    return list(items.values())


def guessing(questions: Questions) -> dict[str, float]:
    """What blind guessing gets in each kind."""
    return {kind: task.chance for kind, task in questions.tasks.items()}


def weak_kinds(accuracy: dict[str, float], guess: dict[str, float], most: int) -> list[str]:
    """The weakest kinds that are understood a little: better than guessing, not yet mastered.

    Reinforcement makes the model do more often what it already does sometimes; where it only
    guesses, right answers come by luck and teach nothing.

    >>> weak_kinds({"a": 0.5, "b": 0.6, "c": 0.95}, {"a": 0.5, "b": 0.2, "c": 0.1}, most=2)
    ['b']
    """
    open_to_it = [
        kind
        for kind, share in accuracy.items()
        if share < MASTERED and share - guess[kind] > UNDERSTOOD * (1 - guess[kind])
    ]
    return sorted(open_to_it, key=lambda kind: accuracy[kind])[:most]
