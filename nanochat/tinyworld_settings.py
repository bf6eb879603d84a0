"""TinyWorld's dials, its word lists and its random streams. All of tinyworld_* reads these.

Read: WorldSettings -> stream (one seed, many named streams) -> held_out (the wall between training
and exam) -> words, frames, chat (the three data files beside this one).
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class WorldSettings:
    """How large the world is, how hard its stories get, and how much text to write."""

    seed: int = 0
    """The one seed; every document, dialogue and exam item draws from a stream named after it."""
    names: int = 40
    """People who can appear, at most 48."""
    places: int = 24
    """Places that can appear, at most 32."""
    objects: int = 40
    """Objects that can be carried, at most 48."""
    things: int = 12
    """Things that can be counted, at most 16."""
    spelling_words: int = 160
    """Words that are spelled and whose letters are counted."""
    min_events: int = 0
    """Events in the easiest story."""
    max_events: int = 6
    """Events in the hardest story."""
    crowd: int = 5
    """People in the easiest stories, at most: everybody in a place of their own."""
    max_people: int = 3
    """People in the hardest story."""
    max_places: int = 4
    """Places in the hardest story."""
    max_objects: int = 2
    """Objects in the hardest story."""
    decor: float = 0.10
    """Share of decoration sentences between the events of a dialogue's story."""
    decor_pretrain: float = 0.25
    """The same for pretraining stories, where variety matters more."""
    easy: float = 0.08
    """Share of the data that stays at difficulty 0: the look-up has to be learned there first."""
    ramp: float = 0.55
    """Share of the data after which the difficulty has reached 1."""
    exam_easiest: float = 0.3
    """Exam stories have difficulties from this value to 1."""
    documents: int = 7_000
    """Pretraining documents."""
    drills: float = 0.7
    """Share of these that come first and are nothing but drills (tinyworld_drills.py)."""
    val_documents: int = 1_000
    """Held-out documents for bits per byte."""
    conversations: int = 44_000
    """Dialogues for supervised fine-tuning."""
    val_conversations: int = 1_000
    """Held-out dialogues."""
    exam_per_kind: int = 50
    """Exam questions of each kind."""
    min_turns: int = 4
    """Questions about one story, at least."""
    max_turns: int = 8
    """Questions about one story, at most."""
    max_dialogue_words: int = 180
    """A dialogue asks no more once it is this long; about 1.3 tokens a word."""
    story_share: float = 0.80
    """Share of the dialogues that are about a story; the others practise skills and chat."""


# @learn:foundations.random_seeds
def stream(seed: int, name: str, index: int = 0) -> Random:
    """The random numbers of one document: the same wherever and in whatever order it is made."""
    return Random(f"{seed}/{name}/{index}")


def pick(rng: Random, options: Sequence[T]) -> T:
    """One option, all equally likely. Three times as fast as rng.choice, which matters here."""
    return options[int(rng.random() * len(options))]


def pick_common(rng: Random, options: Sequence[T]) -> T:
    """One option, early ones far more likely, as in real text (roughly Zipf's law)."""
    return options[int(rng.random() ** 3 * len(options))]


# @learn:data.held_out_exams
def held_out(*parts: object) -> bool:
    """True for the tenth of all combinations that only exams use, whatever the seed."""
    return zlib.crc32("/".join(map(str, parts)).encode()) % 10 == 0


@cache
def _read(name: str) -> dict[str, Any]:
    path = Path(__file__).with_name(f"tinyworld_{name}.json")
    return json.loads(path.read_text(encoding="utf-8"))


def words() -> dict[str, Any]:
    return _read("words")


def frames() -> dict[str, Any]:
    return _read("frames")


def chat() -> dict[str, Any]:
    return _read("chat")


@cache
def people_names(settings: WorldSettings) -> list[str]:
    """Names in turn from both lists, so that every prefix is half and half."""
    both = [n for pair in zip(words()["she"], words()["he"], strict=True) for n in pair]
    return both[: settings.names]


def a(noun: str) -> str:
    """
    >>> a("lamp"), a("umbrella")
    ('a lamp', 'an umbrella')
    """
    vowel = noun[0] in "aeiou" or noun in ("honest", "hour")
    return f"an {noun}" if vowel and noun != "ukulele" else f"a {noun}"


def counted(number: int, thing: str) -> str:
    """
    >>> counted(1, "berry"), counted(3, "berry")
    ('1 berry', '3 berries')
    """
    return f"{number} {thing if number == 1 else words()['things'][thing]}"
