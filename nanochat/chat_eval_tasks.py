"""Exams of any task: multiple choice in one forward pass, free answers by generation, pass@k.

Called by scripts/chat_eval.py. Tasks arrive as arguments (nanochat/tasks/task.py), and so does
whoever generates, so this file knows no particular exam and no engine.
Read: Questions -> TaskResult -> choose_letters -> write_answers -> pass_at_k -> chatcore.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import comb
from typing import Any, Protocol

import torch
from torch import Tensor

from nanochat.cross_entropy import capped_logits
from nanochat.distributed_work import shared_out
from nanochat.gpt import GPT
from nanochat.tokenizer import Tokenizer

ROWS = 16  # multiple-choice questions in one forward pass

# prompts as token ids, answers wanted to each -> for each prompt that many replies
Generator = Callable[[Sequence[list[int]], int], list[list[str]]]
Graded = tuple[str, bool]  # a reply, and whether it is right


class Questions(Protocol):
    """What an exam asks of a task."""

    name: str
    chance: float

    def __len__(self) -> int: ...
    def prompt(self, index: int) -> list[dict[str, Any]]: ...
    def letters(self, index: int) -> tuple[str, ...]: ...
    def kind(self, index: int) -> str: ...
    def grade(self, index: int, reply: str) -> bool: ...


@dataclass
class TaskResult:
    """Right or wrong for every answer to every question; a question may be answered many times."""

    name: str
    chance: float
    marks: list[list[bool]] = field(default_factory=list)  # question x answers
    kinds: list[str] = field(default_factory=list)
    wrong: list[tuple[str, str, str]] = field(default_factory=list)  # kind, question, reply
    too_long: int = 0  # questions that don't fit the model's context: counted as wrong

    def note(self, task: Questions, index: int, graded: Sequence[Graded]) -> None:
        """The answers to one question; none means that it was too long to ask."""
        kind = task.kind(index)
        self.marks.append([right for _, right in graded] or [False])
        self.kinds.append(kind)
        self.too_long += not graded
        if not all(self.marks[-1]):
            reply = next((reply for reply, right in graded if not right), "")
            self.wrong.append((kind, str(task.prompt(index)[-1]["content"]), reply))

    @property
    def accuracy(self) -> float:
        """Share of right answers: pass@1."""
        return sum(sum(marks) / len(marks) for marks in self.marks) / len(self.marks)

    @property
    def centered(self) -> float:
        """0 for guessing, 1 for all right; where guessing is always right there is no above."""
        if self.chance == 1:
            return 0.0
        return (self.accuracy - self.chance) / (1 - self.chance)

    def by_kind(self) -> dict[str, list[bool]]:
        """The first answer to each question, kind by kind."""
        found: dict[str, list[bool]] = defaultdict(list)
        for kind, marks in zip(self.kinds, self.marks, strict=True):
            found[kind].append(marks[0])
        return found

    def record(self) -> dict[str, Any]:
        """The figures of one task for the report: accuracy, pass@k and what they rest on."""
        answers = min(map(len, (m for m in self.marks if len(m) > 1)), default=1)
        passes = {k: pass_at_k(self.marks, k) for k in (1, 2, 4, 8, 16, 32, 64) if k <= answers}
        result: dict[str, Any] = {
            "accuracy": self.accuracy,
            "centered": self.centered,
            "chance": self.chance,
            "questions": len(self.marks),
            "too_long": self.too_long,
        }
        return result | ({f"pass@{k}": share for k, share in passes.items()} if answers > 1 else {})


def pass_at_k(marks: Sequence[Sequence[bool]], k: int) -> float:
    """Chance that one of k answers is right, without bias from n >= k answers (Chen 2021).

    1 - C(n - c, k) / C(n, k) for a question with c of n right; the mean over the questions. One
    that was never asked (a single wrong mark) counts as 0.

    >>> pass_at_k([[True, False, False, False]], 2), pass_at_k([[True, False]], 1)
    (0.5, 0.5)
    """
    shares = [
        1 - comb(len(m) - sum(m), k) / comb(len(m), k) if len(m) >= k else float(any(m))
        for m in marks
    ]
    return sum(shares) / len(shares)


@torch.inference_mode()
def choose_letters(
    model: GPT, tokenizer: Tokenizer, task: Questions, rows: int = ROWS
) -> TaskResult:
    """Multiple choice: which letter is the likeliest as the first token of the answer?

    Nothing is generated. Several processes divide the questions, and all return the same.
    """
    result = TaskResult(task.name, task.chance)
    prompts = [
        tokenizer.render_for_completion({"messages": task.prompt(i)}) for i in range(len(task))
    ]
    fitting = [i for i in range(len(task)) if len(prompts[i]) <= model.config.sequence_len]
    fitting.sort(key=lambda i: len(prompts[i]))  # neighbours of one length: little filling

    def choose(some: Sequence[int]) -> list[list[Graded]]:
        chosen: list[list[Graded]] = []
        for start in range(0, len(some), rows):
            batch = some[start : start + rows]
            scores = next_scores(model, [prompts[i] for i in batch], tokenizer.special("bos"))
            for i, row in zip(batch, scores, strict=True):
                letters = task.letters(i)
                tokens = [tokenizer.encode(letter)[0] for letter in letters]
                letter = letters[int(row[tokens].argmax())]
                chosen.append([(letter, task.grade(i, letter))])
        return chosen

    chosen = dict(zip(fitting, shared_out(fitting, choose), strict=True))
    for i in range(len(task)):
        result.note(task, i, chosen.get(i, []))
    return result


def next_scores(model: GPT, prompts: Sequence[list[int]], pad: int) -> Tensor:
    """Scores (B, V) of what comes after each prompt; the vocabulary meets last positions only.

    Rows are filled up with `pad`, which no real token looks at.
    """
    longest, device = max(map(len, prompts)), model.cos.device
    ids = [prompt + [pad] * (longest - len(prompt)) for prompt in prompts]
    hidden = model.hidden(torch.tensor(ids, device=device))  # (B, T, C)
    ends = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    last = hidden[torch.arange(len(ids), device=device), ends]  # (B, C)
    return capped_logits(last, model.head.weight, model.config.softcap, model.config.vocab_size)


def write_answers(
    generate: Generator, tokenizer: Tokenizer, task: Questions, context: int, answers: int = 1
) -> TaskResult:
    """Free answers: let the model write, then ask the task. `answers` to every question.

    Several processes divide the questions, and all return the same.
    """
    result = TaskResult(task.name, task.chance)
    prompts = [
        tokenizer.render_for_completion({"messages": task.prompt(i)}) for i in range(len(task))
    ]
    fitting = [i for i in range(len(task)) if len(prompts[i]) < context]

    def answer(some: Sequence[int]) -> list[list[Graded]]:
        written = generate([prompts[i] for i in some], answers)
        return [
            [(reply, task.grade(i, reply)) for reply in replies]
            for i, replies in zip(some, written, strict=True)
        ]

    answered = dict(zip(fitting, shared_out(fitting, answer), strict=True))
    for i in range(len(task)):
        result.note(task, i, answered.get(i, []))
    return result


def chatcore(results: Sequence[TaskResult]) -> float:
    """Mean accuracy above chance over the tasks: 0 for guessing everywhere, 1 for all right."""
    return sum(one.centered for one in results) / len(results)
