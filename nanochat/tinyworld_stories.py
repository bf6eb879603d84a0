"""Events become sentences: the same event is told in many ways, and the facts stay the same.

Called by tinyworld_questions.py and tinyworld_dialogues.py.
Read: Story -> sentence -> decoration -> tell -> story.
"""

from random import Random
from typing import NamedTuple

from nanochat.tinyworld_settings import (
    WorldSettings,
    a,
    counted,
    frames,
    pick,
    pick_common,
    words,
)
from nanochat.tinyworld_simulate import Cast, Event, World, draw_cast, simulate

INTRODUCTIONS = frozenset(("is_at", "lies", "holds", "count"))
MERGEABLE = frozenset(("move", "take", "drop", "give"))


class Story(NamedTuple):
    """A text and the world it leaves behind; `world.log` says what happened."""

    text: str
    world: World
    cast: Cast


def verb_phrase(rng: Random, event: Event) -> str:
    """What the event's person does: 'went to the garden'. One of several wordings."""
    values = event._asdict()
    values["a_thing"] = a(event.thing) if event.thing else ""
    if event.number:
        values["counted"] = counted(event.number, event.thing)
        values["noun"] = counted(event.number, event.thing).split()[1]
    return pick_common_first(rng, frames()[event.kind]).format(**values)


def pick_common_first(rng: Random, options: list[str]) -> str:
    """The first wording a third of the time, so that a beginner meets one form often."""
    return options[0] if rng.random() < 0.3 else pick(rng, options)


def sentence(rng: Random, event: Event) -> str:
    """The event as a whole sentence that names its person."""
    if event.kind in ("lies", "weather"):
        return pick_common_first(rng, frames()[event.kind]).format(
            thing=event.thing, place=event.place, a_thing=a(event.thing)
        )
    return f"{event.who} {verb_phrase(rng, event)}."


def decoration(rng: Random, cast: Cast) -> str:
    """A sentence that changes nothing, from the large word lists, early words most often."""
    w = words()
    adjective, animal = pick_common(rng, w["adjectives"]), pick_common(rng, w["animals"])
    return pick(rng, frames()["decor"]).format(
        who=pick(rng, cast.people),
        scenery=pick_common(rng, w["scenery"]),
        looks=pick_common(rng, w["looks"]),
        adjective=adjective,
        a_adjective=a(adjective),
        A_adjective=a(adjective).capitalize(),
        animal=animal,
        a_animal=a(animal),
        animal2=pick_common(rng, w["animals"]),
        color=pick_common(rng, w["colors"]),
        verb=pick_common(rng, w["verbs"]),
        adverb=pick_common(rng, w["adverbs"]),
        idea=pick_common(rng, w["ideas"]),
        idea2=pick_common(rng, w["ideas"]),
    )


def lower_first(text: str) -> str:
    """'The lamp' -> 'the lamp' after a link word; names keep their capital."""
    first = text.split(" ", 1)[0]
    starts = ("The", "There", "In", "Somebody", "It")
    return text[0].lower() + text[1:] if first in starts else text


def tell(rng: Random, world: World, cast: Cast, decor: float) -> str:
    """The whole log as text. Introductions first, then events with links and decorations."""
    log, parts, i = world.log, [], 0
    while i < len(log):
        event = log[i]
        text = sentence(rng, event)
        i += 1
        if event.kind not in INTRODUCTIONS:
            follow = log[i] if i < len(log) else None
            if " and " not in text and can_merge(event, follow) and rng.random() < 0.2:
                text = f"{text[:-1]} and {verb_phrase(rng, log[i])}."
                i += 1
            link = pick(rng, frames()["links"])
            text = f"{link} {lower_first(text)}" if link else text
            if rng.random() < decor:
                parts.append(decoration(rng, cast))
        elif not parts and rng.random() < 0.85:
            text = f"{pick(rng, frames()['openers'])} {text}"
        parts.append(text)
    if rng.random() < decor:
        parts.append(decoration(rng, cast))
    return " ".join(parts)


def can_merge(event: Event, follow: Event | None) -> bool:
    """Two deeds of one person in a row may share a sentence: 'Anna went ... and took ...'."""
    if follow is None or follow.who != event.who:
        return False
    return event.kind in MERGEABLE and follow.kind in MERGEABLE


def story(
    rng: Random, settings: WorldSettings, difficulty: float, exam: bool = False, decor: float = 0.1
) -> Story:
    """A story with `difficulty` 0 (one event) to 1; exam stories lie behind the held-out wall."""
    cast = draw_cast(rng, settings, difficulty, exam)
    world = simulate(rng, cast)
    return Story(tell(rng, world, cast, decor), world, cast)


def lead(text: str, settings: WorldSettings) -> tuple[str, ...]:
    """First person, first place, first object of a text: what the held-out wall looks at."""
    w = words()
    plain = text.replace(".", " ").replace(",", " ").split()
    groups = (w["she"] + w["he"], w["places"][: settings.places], w["objects"][: settings.objects])
    firsts = (next((t for t in plain if t in set(group)), "") for group in groups)
    return tuple(first for first in firsts if first)
