"""Questions about a story with answers that state their reason first.

A small model learns to look things up; "Anna is in the garden, so no." turns a comparison into a
look-up and one easy step. Called by tinyworld_dialogues.py and tinyworld_exam.py.
Read: Question -> the ask_* functions, one a kind -> ASK -> ask.
"""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from nanochat.tinyworld_settings import (
    WorldSettings,
    counted,
    frames,
    people_names,
    pick,
    words,
)
from nanochat.tinyworld_simulate import Event, World, changes
from nanochat.tinyworld_stories import Story


class Question(NamedTuple):
    """What is asked, the best answer, and what of it is graded (tinyworld_exam.grade reads it)."""

    kind: str
    ask: str
    answer: str
    check: str  # place person number yes_no order word letters phrase tale
    key: str
    choices: tuple[str, ...] = ()
    expression: str = ""  # what the calculator is given, if it is used


def wording(rng: Random, name: str, **values: str) -> str:
    """One way of asking; the plain one is the most frequent."""
    options = frames()["ask"][name]
    return (options[0] if rng.random() < 0.4 else pick(rng, options)).format(**values)


def says_not(ask: str, what: str) -> Question:
    """The polite refusal: the story leaves it open."""
    return Question(
        "refusal", ask, f"The story does not say {what}.", "phrase", "does not say|do not know"
    )


def ask_where_person(rng: Random, story: Story, _: bool) -> Question | None:
    """Those who moved are asked for more often: the first place is no longer the answer."""
    at = story.world.person_at
    moved = [e.who for e in story.world.log if e.kind == "move"]
    who = pick(rng, moved) if moved and rng.random() < 0.7 else pick(rng, story.cast.people)
    answer = f"{who} is in the {at[who]}."
    ask = wording(rng, "where_person", who=who)
    return Question("where_person", ask, answer, "place", at[who], tuple(story.cast.places))


def ask_where_object(rng: Random, story: Story, _: bool) -> Question | None:
    """Where does a thing lie? None when everything is carried."""
    if not story.world.lies:
        return None
    thing, place = pick(rng, list(story.world.lies.items()))
    ask = wording(rng, "where_object", thing=thing)
    answer = f"The {thing} is in the {place}."
    return Question("where_object", ask, answer, "place", place, tuple(story.cast.places))


# @learn:data.synthetic_world
def ask_two_hop(rng: Random, story: Story, _: bool) -> Question | None:
    """A carried object is where its holder is: first who, then where."""
    if not story.world.held:
        return None
    thing, who = pick(rng, list(story.world.held.items()))
    place = story.world.person_at[who]
    ask = wording(rng, "where_object", thing=thing)
    answer = f"{who} has the {thing} and {who} is in the {place}, so the {thing} is in the {place}."
    return Question("two_hop", ask, answer, "place", place, tuple(story.cast.places))


def ask_who_has(rng: Random, story: Story, rare: bool) -> Question | None:
    """`rare` asks for an object that nobody has; without it somebody has it."""
    world = story.world
    pool = list(world.lies if rare else world.held)
    if not pool:
        return None
    thing = pick(rng, pool)
    who = world.held.get(thing, "Nobody")
    ask = wording(rng, "who_has", thing=thing)
    choices = (*story.cast.people, "Nobody")
    return Question("who_has", ask, f"{who} has the {thing}.", "person", who, choices)


def ask_how_many(rng: Random, story: Story, rare: bool) -> Question | None:
    """`rare` asks for a number that never changed."""
    world = story.world
    owners = [key for key in world.count if (changes(world, *key) == 0) == rare]
    if not owners:
        return None
    who, thing = pick(rng, owners)
    ask = wording(rng, "how_many", who=who, noun=words()["things"][thing])
    answer, number = count_steps(world, who, thing)
    return Question("how_many", ask, answer, "number", str(number))


def count_steps(world: World, who: str, thing: str) -> tuple[str, int]:
    """'Anna had 3 apples and found 2 more: 3 + 2 = 5. Anna has 5 apples.', 5"""
    mine = [e for e in world.log if e.thing == thing and who in (e.who, e.other)]
    number, text = 0, ""
    for event in mine:
        if event.kind == "count":
            number, text = event.number, f"{who} had {counted(event.number, thing)}"
            continue
        sign, deed = deed_of(event, who)
        new = number + event.number if sign == "+" else number - event.number
        head = text if not text.endswith(".") else f"{text} Then {who}"
        joint = " and" if head.count("Then") == 0 else ""
        text = f"{head}{joint} {deed}: {number} {sign} {event.number} = {new}."
        number = new
    has = f"{who} has {counted(number, thing)}."
    return (f"{text} {has}" if text.endswith(".") else has), number


def deed_of(event: Event, who: str) -> tuple[str, str]:
    """The sign of a change and how the answer says it."""
    if event.kind == "gain":
        return "+", f"{event.how} {event.number} more"
    if event.kind == "lose":
        return "-", f"{event.how} {event.number}"
    if event.who == who:
        return "-", f"gave {event.number} to {event.other}"
    return "+", f"got {event.number} from {event.who}"


def ask_first(rng: Random, story: Story, rare: bool) -> Question | None:
    """Which of two deeds came first; `rare` (half of all) mentions the later one first."""
    deeds = [e for e in story.world.log if e.kind in ("move", "take")]
    clear = {noun_of(e): e for e in deeds if sum(noun_of(x) == noun_of(e) for x in deeds) == 1}
    if len(clear) < 2:
        return None
    early, late = sorted(rng.sample(list(clear.values()), 2), key=deeds.index)
    one, two = (late, early) if rare else (early, late)
    ask = wording(rng, "first_event", one=plainly(one), two=plainly(two))
    key = f"{early.who} {noun_of(early)}"
    choices = (f"{one.who} {noun_of(one)}", f"{two.who} {noun_of(two)}")
    return Question("first", ask, f"{plainly(early)} first.", "order", key, choices)


def ask_first_mover(rng: Random, story: Story, rare: bool) -> Question | None:
    """Who moved first; `rare` mentions the later mover first."""
    movers = list(dict.fromkeys(e.who for e in story.world.log if e.kind == "move"))
    if len(movers) < 2:
        return None
    early, late = sorted(rng.sample(movers, 2), key=movers.index)
    one, two = (late, early) if rare else (early, late)
    ask = wording(rng, "first_mover", one=one, two=two)
    return Question("first", ask, f"{early} moved first.", "order", early, (one, two))


def noun_of(event: Event) -> str:
    return event.place if event.kind == "move" else event.thing


def plainly(event: Event) -> str:
    """The event in its plainest words: 'Anna went to the garden'."""
    deed = f"went to the {event.place}" if event.kind == "move" else f"took the {event.thing}"
    return f"{event.who} {deed}"


def compared(one: str, two: str) -> str:
    """Two words side by side and a verdict: a small model compares neighbours most easily.

    >>> compared("park", "park"), compared("park", "barn")
    ('park and park: same', 'park and barn: different')
    """
    return f"{one} and {two}: {'same' if one == two else 'different'}"


def ask_is_in(rng: Random, story: Story, rare: bool) -> Question | None:
    """`rare` (half of all) is a no; the wrong place is one of the story's."""
    who = pick(rng, story.cast.people)
    at = story.world.person_at[who]
    place = pick(rng, [p for p in story.cast.places if p != at]) if rare else at
    verdict = "no" if rare else "yes"
    ask = wording(rng, "is_in", who=who, place=place)
    answer = f"{who} is in the {at}. {compared(at, place)}, so {verdict}."
    return Question("yes_no", ask, answer, "yes_no", verdict, ("yes", "no"))


def ask_does_have(rng: Random, story: Story, rare: bool) -> Question | None:
    """`rare` (half of all) is a no."""
    if not story.world.held or len(story.cast.people) < 2:
        return None
    thing, holder = pick(rng, list(story.world.held.items()))
    who = pick(rng, [p for p in story.cast.people if p != holder]) if rare else holder
    verdict = "no" if rare else "yes"
    ask = wording(rng, "does_have", who=who, thing=thing)
    answer = f"{holder} has the {thing}. {compared(holder, who)}, so {verdict}."
    return Question("yes_no", ask, answer, "yes_no", verdict, ("yes", "no"))


def ask_feeling(rng: Random, story: Story, rare: bool) -> Question | None:
    """How somebody feels; `rare` asks for the weather."""
    world = story.world
    if rare:
        if not world.weather:
            return None
        ask = wording(rng, "weather")
        choices = tuple(words()["weather"])
        return Question("feeling", ask, f"It is {world.weather}.", "word", world.weather, choices)
    if not world.feeling:
        return None
    who, feels = pick(rng, list(world.feeling.items()))
    ask = wording(rng, "feeling", who=who)
    choices = tuple(words()["feelings"])
    return Question("feeling", ask, f"{who} feels {feels}.", "word", feels, choices)


def ask_absent(rng: Random, story: Story, settings: WorldSettings) -> Question:
    """Something the story does not say, asked in the words of the other kinds."""
    who = pick(rng, [p for p in people_names(settings) if p not in story.cast.people])
    objects = words()["objects"][: settings.objects]
    thing = pick(rng, [o for o in objects if o not in story.cast.objects])
    noun = words()["things"][story.cast.thing or "apple"]
    silent = [p for p in story.cast.people if p not in story.world.feeling]
    sad = pick(rng, silent) if silent and rng.random() < 0.5 else who
    cases = (
        ("where_person", f"where {who} is", who),
        ("where_object", f"where the {thing} is", who),
        ("who_has", f"who has the {thing}", who),
        ("how_many", f"how many {noun} {who} has", who),
        ("feeling", f"how {sad} feels", sad),
    )
    kind, what, person = pick(rng, cases)
    return says_not(wording(rng, kind, who=person, thing=thing, noun=noun), what)


Asker = Callable[[Random, Story, bool], Question | None]

# kind -> (how to ask, share of the rare answer). Two askers may serve one kind.
ASK: dict[str, tuple[tuple[Asker, ...], float]] = {
    "where_person": ((ask_where_person,), 0.0),
    "where_object": ((ask_where_object,), 0.0),
    "two_hop": ((ask_two_hop,), 0.0),
    "who_has": ((ask_who_has,), 0.2),
    "how_many": ((ask_how_many,), 0.2),
    "first": ((ask_first, ask_first_mover), 0.5),
    "yes_no": ((ask_is_in, ask_does_have), 0.5),
    "feeling": ((ask_feeling,), 0.3),
}
STORY_KINDS = tuple(ASK)


def ask(rng: Random, story: Story, kind: str, rare: bool | None = None) -> Question | None:
    """A question of this kind about the story, or None if the story has no answer to it."""
    askers, share = ASK[kind]
    if rare is None:
        rare = rng.random() < share
    return pick(rng, askers)(rng, story, rare)
