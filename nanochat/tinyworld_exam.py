"""The held-out exam: questions from behind the wall, a strict grader, and what guessing would get.

Called by tinyworld.py, tasks and chat_eval. Read: ExamItem -> exam -> grade -> majority_baseline.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from nanochat.tinyworld_questions import ASK, Question, ask, ask_absent
from nanochat.tinyworld_settings import WorldSettings, stream, words
from nanochat.tinyworld_skills import skill
from nanochat.tinyworld_stories import story

SKILL_KINDS = ("calculator", "spelling", "letter_count", "identity")
KINDS = (*ASK, *SKILL_KINDS, "refusal", "chat")


@dataclass(frozen=True)
class ExamItem:
    """One question. `key` is what is graded, in the way that `check` names."""

    kind: str
    messages: list[dict[str, Any]]
    answer: str
    check: str
    key: str
    choices: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def from_dict(record: dict[str, Any]) -> ExamItem:
    """An item read back from exam.jsonl."""
    return ExamItem(**{**record, "choices": tuple(record["choices"])})


def on_story(
    rng: Random, settings: WorldSettings, kind: str, number: int, exam: bool
) -> Question | None:
    """A question about a new story; every answer class gets its turn by `number`."""
    span = 1.0 - settings.exam_easiest
    tale = story(rng, settings, settings.exam_easiest + span * rng.random(), exam)
    if kind == "refusal":
        question: Question | None = ask_absent(rng, tale, settings)
    else:
        share = ASK[kind][1]
        rare = share > 0 and number % round(1 / share) == 0
        question = ask(rng, tale, kind, rare)
    return question and question._replace(ask=f"{tale.text}\n{question.ask}")


def draw(
    rng: Random, settings: WorldSettings, kind: str, number: int, exam: bool = True
) -> Question | None:
    """Item `number` of a kind, or None when this story has no such question.

    `exam` draws from behind the wall; without it the question is one to practise with.
    """
    if kind == "chat":
        return skill(rng, settings, "tell" if number % 2 else "chat", exam=exam)
    if kind in SKILL_KINDS:
        return skill(rng, settings, kind, exam=exam)
    if kind != "refusal" or number % 5 < 2:
        return on_story(rng, settings, kind, number, exam)
    if number % 5 == 2:
        return skill(rng, settings, "refusal", exam=exam)
    # two in five can be answered: who always refuses must not score
    easy = ("where_person", "where_object", "who_has")[number % 3]
    return on_story(rng, settings, easy, 1, exam)


# @learn:data.held_out_exams
def exam(settings: WorldSettings, per_kind: int) -> list[ExamItem]:
    """`per_kind` different questions of each kind, the same for the same settings."""
    items: dict[str, ExamItem] = {}
    for kind in KINDS:
        rng = stream(settings.seed, f"exam-{kind}")
        number = 0
        while number < per_kind:
            q = draw(rng, settings, kind, number)
            if q is None or q.ask in items:
                continue
            items[q.ask] = as_item(kind, q)
            number += 1
    return list(items.values())


def as_item(kind: str, q: Question) -> ExamItem:
    message = {"role": "user", "content": q.ask}
    return ExamItem(kind, [message], q.answer, q.check, q.key, q.choices)


def practice(settings: WorldSettings, kind: str, number: int, seed: int) -> ExamItem:
    """A question of the exam's form from this side of the wall: to learn from, without end.

    Question `number` is the same whenever and wherever it is asked for.
    """
    rng = stream(settings.seed, f"practice-{seed}-{kind}", number)
    while True:
        question = draw(rng, settings, kind, number, exam=False)
        if question is not None:
            return as_item(kind, question)


# --- grading -----------------------------------------------------------------------------------


def last_of(reply: str, options: Sequence[str]) -> str:
    """The option named last in the reply, or ''.

    >>> last_of("Tom is in the garden, so the lamp is in the garden.", ["garden", "park"])
    'garden'
    """
    found = re.findall(rf"\b({'|'.join(map(re.escape, options))})\b", reply, re.IGNORECASE)
    return found[-1].lower() if found else ""


def grade(item: ExamItem, reply: str) -> bool:
    """Is the graded part of the reply right? The wording around it is free."""
    return GRADERS[item.check](item, reply)


def _place(item: ExamItem, reply: str) -> bool:
    return last_of(reply, words()["places"]) == item.key


def _person(item: ExamItem, reply: str) -> bool:
    names = [*words()["she"], *words()["he"], "Nobody"]
    return last_of(reply, names) == item.key.lower()


def _number(item: ExamItem, reply: str) -> bool:
    found = re.findall(r"-?\d+(?:\.\d+)?", reply.replace(",", ""))
    return bool(found) and float(found[-1]) == float(item.key)


def _yes_no(item: ExamItem, reply: str) -> bool:
    return last_of(reply, item.choices) == item.key


def _word(item: ExamItem, reply: str) -> bool:
    return last_of(reply, item.choices) == item.key


def _order(item: ExamItem, reply: str) -> bool:
    """Of the two choices the right one is named first, with its person."""
    tokens = re.findall(r"[a-z]+", reply.lower())
    right = item.key.lower().split()
    (other,) = {c.lower() for c in item.choices} - {item.key.lower()}
    if not set(right) <= set(tokens):
        return False
    wrong = other.split()[-1]
    return wrong not in tokens or tokens.index(right[-1]) < tokens.index(wrong)


def _letters(item: ExamItem, reply: str) -> bool:
    """The longest run of single letters: 'l-a-m-p' and 'L, A, M, P' both spell lamp."""
    runs = re.findall(r"\b[a-z]\b(?:[-, ]+\b[a-z]\b)*", reply.lower())
    return bool(runs) and re.sub(r"[^a-z]", "", max(runs, key=len)) == item.key


def _phrase(item: ExamItem, reply: str) -> bool:
    return any(phrase in reply.lower() for phrase in item.key.split("|"))


def _tale(item: ExamItem, reply: str) -> bool:
    """Names the person and the object, ends with a full stop, 8 to 80 words."""
    tokens = re.findall(r"[A-Za-z]+", reply)
    named = all(word in tokens for word in item.key.split())
    return named and reply.rstrip().endswith((".", "!", "?")) and 8 <= len(tokens) <= 80


GRADERS = {
    "place": _place,
    "person": _person,
    "number": _number,
    "yes_no": _yes_no,
    "word": _word,
    "order": _order,
    "letters": _letters,
    "phrase": _phrase,
    "tale": _tale,
}


# @learn:data.held_out_exams
def majority_baseline(items: Sequence[ExamItem]) -> dict[str, float]:
    """What the best guess without reading scores in each kind: one fixed answer for all, or a
    random one of the choices named in the question, whichever is better."""
    groups: dict[str, list[ExamItem]] = defaultdict(list)
    for item in items:
        groups[item.kind].append(item)
    shares = {}
    for kind, group in groups.items():
        fixed = Counter(item.key for item in group).most_common(1)[0][1] / len(group)
        chance = sum(1 / len(i.choices) for i in group if i.choices) / len(group)
        shares[kind] = max(fixed, chance)
    return shares
