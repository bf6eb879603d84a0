"""Stories and skills become what a model reads: documents first, then dialogues.

Both follow a curriculum: item `index` of `total` is harder than item 0. Item `index` depends on
the seed, the stream's name, `index` and `total` only, so any process can write any of them.
Called by tinyworld.py. Read: difficulty_at -> the document writers -> pretraining_text ->
story_turns -> skill_turns -> conversation.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from nanochat.tinyworld_drills import comparisons, memory_game
from nanochat.tinyworld_questions import ASK, Question, ask, ask_absent
from nanochat.tinyworld_settings import WorldSettings, a, pick, pick_common, stream, words
from nanochat.tinyworld_skills import SKILLS, skill, spelled, spelling_list
from nanochat.tinyworld_stories import Story, story

# kind -> how often a dialogue asks it; "refusal" asks for what the story does not say
TURN_WEIGHTS: dict[str, float] = {
    "where_person": 1.0,
    "where_object": 1.2,
    "two_hop": 1.6,
    "who_has": 2.0,
    "how_many": 2.8,
    "first": 3.2,
    "yes_no": 1.5,
    "feeling": 2.0,
    "refusal": 1.2,
}
TURN_KINDS, TURN_SHARES = tuple(TURN_WEIGHTS), tuple(TURN_WEIGHTS.values())
SKILL_NAMES = tuple(SKILLS)
SKILL_SHARES = tuple(weight for _, weight in SKILLS.values())
MIN_WORDS, MAX_WORDS = 20, 250  # of one pretraining document


def difficulty_at(rng: Random, settings: WorldSettings, index: int, total: int) -> float:
    """0 up to `easy`, 1 from `ramp` on; one item in four is an easier one, so none is forgotten."""
    climb = (index / total - settings.easy) / max(1e-9, settings.ramp - settings.easy)
    level = min(1.0, max(0.0, climb))
    return level * rng.random() if rng.random() < 0.25 else level


def story_questions(
    rng: Random, settings: WorldSettings, tale: Story, wanted: int
) -> list[Question]:
    """Up to `wanted` questions about one story with different answers, kinds mixed."""
    found: dict[str, Question] = {}
    for kind in rng.choices(TURN_KINDS, TURN_SHARES, k=3 * wanted):
        absent = kind not in ASK
        question = ask_absent(rng, tale, settings) if absent else ask(rng, tale, kind)
        if question and question.answer not in found:
            found[question.answer] = question
            if len(found) == wanted:
                break
    if not found and (question := ask(rng, tale, "where_person")):  # everybody is somewhere
        found[question.answer] = question
    return list(found.values())


# --- pretraining -------------------------------------------------------------------------------


def plain_story(rng: Random, settings: WorldSettings, difficulty: float) -> str:
    return story(rng, settings, difficulty, decor=settings.decor_pretrain).text


def quizzed_story(rng: Random, settings: WorldSettings, difficulty: float) -> str:
    """A story, then questions with answers, one a line."""
    tale = story(rng, settings, difficulty, decor=settings.decor_pretrain)
    lines = [tale.text]
    for q in story_questions(rng, settings, tale, 3 + int(rng.random() * 4)):
        lines.append(f"Question: {q.ask} Answer: {q.answer}")
    return "\n".join(lines)


def spelling_lesson(rng: Random, settings: WorldSettings, difficulty: float) -> str:
    """Six words and their letters."""
    lines = []
    for _ in range(6):
        word = pick(rng, spelling_list(settings))
        form = pick(rng, ("{word} is spelled {letters}.", "The letters of {word} are {letters}."))
        lines.append(form.format(word=word, letters=spelled(word)))
    return "\n".join(lines)


def sums(rng: Random, settings: WorldSettings, difficulty: float) -> str:
    """Sums of small numbers, in the form the counting answers use."""
    lines = []
    for _ in range(6):
        x, y = 1 + int(rng.random() * 8), 1 + int(rng.random() * 4)
        lines.append(pick(rng, (f"{x} + {y} = {x + y}.", f"{x + y} - {y} = {x}.")))
    return "\n".join(lines)


def facts(rng: Random, settings: WorldSettings, difficulty: float) -> str:
    """A few things that are so, in the real world as in TinyWorld."""
    w = words()
    lines = []
    for _ in range(5):
        job, work = pick(rng, w["jobs"])
        one, two = pick(rng, w["opposites"])
        animal, adjective = pick_common(rng, w["animals"]), pick_common(rng, w["adjectives"])
        group, members = pick(rng, list(w["categories"].items()))
        member = pick_common(rng, members)
        lines.append(
            pick(
                rng,
                (
                    pick(rng, w["facts"]),
                    f"{a(job).capitalize()} {work}.",
                    f"The opposite of {one} is {two}.",
                    f"{a(animal).capitalize()} is an animal. It can be {adjective}.",
                    f"The word {member} is the name of {a(group)}.",
                    f"The word {member} is the name of {a(group)}.",
                    f"Some {adjective} things are {pick_common(rng, w['colors'])}.",
                ),
            )
        )
    return " ".join(lines)


def overheard(rng: Random, settings: WorldSettings, difficulty: float) -> str:
    """Everyday talk with the assistant, and what it says about itself."""
    lines = []
    for _ in range(3):
        kind = pick(rng, ("identity", "identity", "chat", "chat", "refusal", "tell"))
        q = skill(rng, settings, kind)
        lines.append(f"Question: {q.ask} Answer: {q.answer}")
    return "\n".join(lines)


Writer = Callable[[Random, WorldSettings, float], str]
WRITERS: dict[Writer, float] = {
    memory_game: 0.20,
    plain_story: 0.10,
    quizzed_story: 0.18,
    comparisons: 0.12,
    spelling_lesson: 0.06,
    sums: 0.04,
    facts: 0.07,
    overheard: 0.06,
}
DRILLS: dict[Writer, float] = {memory_game: 0.5, comparisons: 0.5}


def pretraining_text(
    settings: WorldSettings, index: int, total: int, name: str = "pretrain"
) -> str:
    """Document `index` of `total`, 20 to 250 words, easier at the start."""
    rng = stream(settings.seed, name, index)
    difficulty = difficulty_at(rng, settings, index, total)
    writers = DRILLS if index < settings.drills * total else WRITERS
    names, shares = tuple(writers), tuple(writers.values())
    text = ""
    while (length := len(text.split())) < MIN_WORDS:
        writer = rng.choices(names, shares)[0]
        more = writer(rng, settings, difficulty)
        if length + len(more.split()) <= MAX_WORDS:
            text = f"{text}\n\n{more}" if text else more
    return text


# --- dialogues ---------------------------------------------------------------------------------


def content(question: Question) -> str | list[dict[str, str]]:
    """The assistant's message: text, or for a sum the calculator's call, its result and text."""
    if not question.expression:
        return question.answer
    return [
        {"type": "python", "text": question.expression},
        {"type": "python_output", "text": question.key},
        {"type": "text", "text": question.answer},
    ]


def story_turns(rng: Random, settings: WorldSettings, difficulty: float) -> list[Question]:
    """Questions on one story; the first carries the story in front of it."""
    tale = story(rng, settings, difficulty, decor=settings.decor)
    wanted = settings.min_turns + int(rng.random() * (settings.max_turns + 1 - settings.min_turns))
    turns = story_questions(rng, settings, tale, wanted)
    turns[0] = turns[0]._replace(ask=f"{tale.text}\n{turns[0].ask}")
    if rng.random() < 0.1:
        turns.append(skill(rng, settings, pick(rng, SKILL_NAMES)))
    return within(turns, settings.max_dialogue_words)


def within(turns: list[Question], limit_words: int) -> list[Question]:
    """As many turns as fit, the first in any case."""
    used = 0
    for i, turn in enumerate(turns):
        used += turn.ask.count(" ") + turn.answer.count(" ") + 2
        if used > limit_words and i:
            return turns[:i]
    return turns


def skill_turns(rng: Random, settings: WorldSettings) -> list[Question]:
    """Two to five questions without a story."""
    names = rng.choices(SKILL_NAMES, SKILL_SHARES, k=2 + int(rng.random() * 4))
    return [skill(rng, settings, name) for name in names]


def turns(settings: WorldSettings, index: int, total: int, split: str) -> list[Question]:
    """The questions and answers of dialogue `index` of `total`."""
    rng = stream(settings.seed, f"sft-{split}", index)
    difficulty = difficulty_at(rng, settings, index, total)
    if rng.random() < settings.story_share:
        return story_turns(rng, settings, difficulty)
    if difficulty == 0 and rng.random() < 0.6:  # a yes or no needs it, so it comes first
        return [skill(rng, settings, "compare") for _ in range(8)]
    return skill_turns(rng, settings)


def conversation(settings: WorldSettings, index: int, total: int, split: str) -> dict[str, Any]:
    """Dialogue `index` of `total` of the split "train" or "val", as a Conversation."""
    return as_conversation(turns(settings, index, total, split))


def as_conversation(questions: list[Question]) -> dict[str, Any]:
    """Questions and their answers as a conversation."""
    messages: list[dict[str, Any]] = []
    for question in questions:
        messages.append({"role": "user", "content": question.ask})
        messages.append({"role": "assistant", "content": content(question)})
    return {"messages": messages}
