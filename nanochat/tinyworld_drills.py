"""Drills in the pretraining text: looking up and comparing, fifty times a page.

A small model guesses until two circuits appear: "find the last sentence about Anna, copy its place"
and "are these two words the same?". Stories alone teach neither in a laptop's minutes, because each
needs several parts at once and one part alone helps nothing. A drill is a staircase: its lowest
step needs one part only ("Anna kitchen, Ivan barn, Anna kitchen": look one word back), each
further step one part more, until the sentences are those of the answers (dev/LOG.md has what
was measured). Called by tinyworld_dialogues.py. Read: Game -> memory_game -> comparisons.
"""

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import NamedTuple

from nanochat.tinyworld_settings import (
    WorldSettings,
    a,
    frames,
    held_out,
    people_names,
    pick,
    words,
)
from nanochat.tinyworld_skills import pair_of_words
from nanochat.tinyworld_stories import lead

PAGE_WORDS = 150
GAME_SHARES = (5, 1, 2, 1)  # people in places most often: one circuit serves all four
VERDICTS = ("{one} {two} {verdict}.", "{one} and {two} {verdict}.", "{one} and {two}: {verdict}.")


class Game(NamedTuple):
    """Who goes with what, and how it is said: in two or three words, in a story, in an answer."""

    keys: Sequence[str]
    values: Sequence[str]
    short: tuple[str, ...]
    told: tuple[str, ...]
    answer: str


@cache
def games(settings: WorldSettings) -> tuple[Game, ...]:
    """The look-up games, in the words of this world."""
    w, f = words(), frames()
    people, places = people_names(settings), w["places"][: settings.places]
    objects = w["objects"][: settings.objects]
    at = tuple(f"{{key}} {form}." for form in f["is_at"])
    held = tuple(f"{{value}} {form}." for form in f["holds"])
    feels = tuple(f"{{key}} {form}.".replace("{thing}", "{value}") for form in f["feel"])
    short = ("{key} {value},", "{key} in {value},")
    return (
        Game(people, places, short, at, "{key} is in the {value}."),
        Game(objects, places, short, tuple(f["lies"]), "The {key} is in the {value}."),
        Game(objects, people, short[:1], held, "Who has the {key}? {value}."),
        Game(people, w["feelings"], short[:1], feels, "{key} feels {value}."),
    )


def memory_game(rng: Random, settings: WorldSettings, difficulty: float) -> str:
    """Four to six pairs are told; then all of them again and again, each time in a new order.

    Telling and asking each have one form a page: short, as in a story, or as in an answer. A short
    form on either side leaves only the other side to be learned. On half of the pages two pairs
    are told anew before the asking: the latest word counts.
    """
    while True:
        (game,) = rng.choices(games(settings), GAME_SHARES)
        count = 4 + int(rng.random() * 3)
        keys, values = rng.sample(game.keys, count), rng.sample(game.values, count + 2)
        pairs = list(zip(keys, values, strict=False))
        told = pick(rng, (game.short, game.told, (game.answer,)))
        asked = pick(rng, (*game.short, game.answer, game.answer))
        said = [say(pick(rng, told), *pair) for pair in pairs]
        if rng.random() < 0.5:
            changed = list(zip(rng.sample(keys, 2), values[count:], strict=True))
            said += [say(pick(rng, told), *pair) for pair in changed]
            pairs = list((dict(pairs) | dict(changed)).items())
        while len(said) < PAGE_WORDS / len(asked.split()):
            said += [say(asked, *pair) for pair in rng.sample(pairs, count)]
        page = " ".join(said)
        if not held_out(*lead(page, settings)):
            return page


def say(form: str, key: str, value: str) -> str:
    """One pair in one form. In the forms of stories the thing is the key, the place the value.

    >>> say("{key} stood in the {place}.", "Anna", "barn")
    'Anna stood in the barn.'
    >>> say("In the {place} there was {a_thing}.", "umbrella", "barn")
    'In the barn there was an umbrella.'
    """
    return form.format(key=key, value=value, place=value, thing=key, a_thing=a(key))


def comparisons(rng: Random, settings: WorldSettings, difficulty: float) -> str:
    """Pairs of words, the same or different; neighbours are the easiest to compare."""
    form, verdicts = pick(rng, VERDICTS), []
    for _ in range(PAGE_WORDS * 10 // 33):  # 3.3 words each
        one, two = pair_of_words(rng, settings)
        verdict = "same" if one == two else "different"
        verdicts.append(form.format(one=one, two=two, verdict=verdict))
    return " ".join(verdicts)
