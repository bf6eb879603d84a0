"""Questions that need no story: sums, spelling, counting letters, who are you, chat, refusals.

Every function takes `exam` and returns a question from that side of the held-out wall: what an
exam may ask (a sum, a word with its wording, an opener with its question) is never trained on.
Called by tinyworld_dialogues.py and tinyworld_exam.py. Read: calculator -> spelling ->
letter_count -> said -> tell -> SKILLS.
"""

from collections.abc import Callable
from functools import cache
from random import Random

from nanochat.tinyworld_questions import Question, compared
from nanochat.tinyworld_settings import (
    WorldSettings,
    a,
    chat,
    held_out,
    people_names,
    pick,
    pick_common,
    words,
)

CALCULATE: dict[str, Callable[[int, int], int]] = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x // y,  # only ever asked when nothing remains
}


def operand(rng: Random) -> int:
    """One to three digits, two most often."""
    return int(rng.random() * pick(rng, (9, 99, 99, 999))) + 1


def operands(rng: Random, op: str) -> tuple[int, int]:
    """Two numbers whose result is a whole number, not below zero."""
    x, y = operand(rng), operand(rng)
    if op == "-" and x < y:
        return y, x
    if op == "/":
        y = 1 + int(rng.random() * 20)
        return y * (1 + int(rng.random() * (999 // y))), y
    return x, y


def sum_held_out(x: int, y: int, op: str) -> bool:
    """Sums of two digits below ten belong to training: every learner counts on fingers first."""
    return max(x, y) >= 10 and held_out(x, y, op)


def calculator(rng: Random, settings: WorldSettings, exam: bool) -> Question:
    """Any wording becomes one expression, which the calculator tool works out."""
    op = pick(rng, "+-*/")
    x, y = operands(rng, op)
    while sum_held_out(x, y, op) != exam:
        x, y = operands(rng, op)
    ask = pick(rng, chat()["calculator"][op]).format(a=x, b=y)
    expression, result = f"{x}{op}{y}", str(CALCULATE[op](x, y))
    answer = f"{expression} is {result}."
    return Question("calculator", ask, answer, "number", result, expression=expression)


@cache
def spelling_list(settings: WorldSettings) -> tuple[str, ...]:
    w = words()
    full = [*w["things"], *w["objects"], *w["plain"]]
    return tuple(dict.fromkeys(full))[: settings.spelling_words]


def spelled(word: str) -> str:
    """
    >>> spelled("lamp")
    'l-a-m-p'
    """
    return "-".join(word)


def spelling(rng: Random, settings: WorldSettings, exam: bool) -> Question:
    """Held out: a word together with a wording. Every word is spelled in training somehow."""
    while True:
        word, ask = pick(rng, spelling_list(settings)), pick(rng, chat()["spelling"])
        if held_out(word, ask) == exam:
            return Question("spelling", ask.format(word=word), spelled(word), "letters", word)


def running_count(word: str, letter: str) -> str:
    """Spell, and count aloud.

    >>> running_count("banana", "a")
    'b-a1-n-a2-n-a3: 3.'
    """
    parts, seen = [], 0
    for c in word:
        seen += c == letter
        parts.append(f"{c}{seen}" if c == letter else c)
    return f"{'-'.join(parts)}: {seen}."


@cache
def letter_pairs(settings: WorldSettings, exam: bool) -> tuple[tuple[tuple[str, str], ...], ...]:
    """(word, letter) on one side of the wall, grouped by count: none, one, two or more."""
    groups: tuple[list[tuple[str, str]], ...] = ([], [], [])
    for word in spelling_list(settings):
        for letter in "abcdefghijklmnopqrstuvwxyz":
            if held_out(word, letter) == exam:
                groups[min(2, word.count(letter))].append((word, letter))
    return tuple(map(tuple, groups))


def letter_count(rng: Random, settings: WorldSettings, exam: bool) -> Question:
    """Held out: a word together with a letter. None 20%, one 40%, two or more 40%."""
    word, letter = pick(rng, letter_pairs(settings, exam)[pick(rng, (0, 1, 1, 2, 2))])
    ask = pick(rng, chat()["letter_count"]).format(word=word, letter=letter)
    key = str(word.count(letter))
    return Question("letter_count", ask, running_count(word, letter), "number", key)


def opened(opener: str, ask: str) -> str:
    """
    >>> opened("Well,", "Who are you?"), opened("Hi!", "Who are you?")
    ('Well, who are you?', 'Hi! Who are you?')
    """
    if opener.endswith((",", ":")) and not ask.startswith(("I ", "I'")):
        ask = ask[0].lower() + ask[1:]
    return f"{opener} {ask}".strip()


def said(kind: str) -> Callable[[Random, WorldSettings, bool], Question]:
    """An asker for one of the lists of set questions. Held out: an opener with its question."""

    def asker(rng: Random, settings: WorldSettings, exam: bool) -> Question:
        while True:
            entry, opener = pick(rng, chat()[kind]), pick(rng, chat()["openers"])
            ask = pick(rng, entry["ask"])
            if held_out(opener, ask) == exam:
                key = "|".join(entry["phrase"])
                answer = pick(rng, entry["say"])
                return Question(kind, opened(opener, ask), answer, "phrase", key)

    return asker


def tale(rng: Random, settings: WorldSettings, who: str, thing: str) -> str:
    """A free little story of three or four sentences."""
    w = words()
    adjective = pick_common(rng, w["adjectives"])
    values = {
        "who": who,
        "thing": thing,
        "a_thing": a(thing),
        "other": pick(rng, [p for p in people_names(settings) if p != who]),
        "place": pick(rng, w["places"][: settings.places]),
        "adjective": adjective,
        "a_adjective": a(adjective),
        "color": pick_common(rng, w["colors"]),
        "animal": pick_common(rng, w["animals"]),
        "feeling": pick(rng, w["feelings"]),
    }
    slots = chat()["tale"] if rng.random() < 0.7 else [*chat()["tale"][:2], chat()["tale"][3]]
    return " ".join(pick(rng, slot).format(**values) for slot in slots)


def tell(rng: Random, settings: WorldSettings, exam: bool) -> Question:
    """'Tell me a story about Anna and a lamp.' Held out: the person with the object."""
    while True:
        who = pick(rng, people_names(settings))
        thing = pick(rng, words()["objects"][: settings.objects])
        if held_out("tell", who, thing) == exam:
            ask = pick(rng, chat()["tell"]).format(who=who, a_thing=a(thing))
            answer = tale(rng, settings, who, thing)
            return Question("chat", ask, answer, "tale", f"{who} {thing}")


def pair_of_words(rng: Random, settings: WorldSettings) -> tuple[str, str]:
    """Two names, places or objects; the same one twice half of the time."""
    w = words()
    people, places = people_names(settings), w["places"][: settings.places]
    group = pick(rng, (places, places, people, w["objects"][: settings.objects]))
    one = pick(rng, group)
    return one, one if rng.random() < 0.5 else pick(rng, group)


def compare(rng: Random, settings: WorldSettings, exam: bool) -> Question:
    """Practice for the one step that a yes or no needs; no exam asks it.

    >>> compare(Random(1), WorldSettings(), exam=False).answer
    'harbor and library: different.'
    """
    one, two = pair_of_words(rng, settings)
    answer = f"{compared(one, two)}."
    return Question("compare", f"Compare {one} and {two}.", answer, "phrase", answer)


Skill = Callable[[Random, WorldSettings, bool], Question]

# name -> (asker, how often it is drawn)
SKILLS: dict[str, tuple[Skill, float]] = {
    "calculator": (calculator, 1.6),
    "spelling": (spelling, 1.8),
    "letter_count": (letter_count, 4.4),
    "identity": (said("identity"), 1.3),
    "refusal": (said("refusal"), 0.8),
    "chat": (said("chat"), 1.0),
    "tell": (tell, 0.7),
    "compare": (compare, 0.6),
}


def skill(rng: Random, settings: WorldSettings, name: str, exam: bool = False) -> Question:
    return SKILLS[name][0](rng, settings, exam)
