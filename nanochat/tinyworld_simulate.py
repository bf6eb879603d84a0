"""The world behind the stories: who is where, who has what, how many, and what happened.

A story is a list of events; `World.apply` is the only thing that changes the world, and it refuses
an event that could not happen. Called by tinyworld_stories.py. Read: Event -> World -> Cast ->
introduce -> next_event -> simulate.
"""

from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from nanochat.tinyworld_settings import WorldSettings, frames, held_out, people_names, pick, words

# action -> how often it is drawn
ACTIONS = {
    "move": 4.0,
    "take": 3.0,
    "drop": 1.2,
    "give": 2.6,
    "swap": 0.8,
    "feel": 1.0,
    "weather": 0.4,
    "gain": 1.8,
    "lose": 1.6,
    "share": 1.2,
    "want": 0.6,
}
NAMES, WEIGHTS = tuple(ACTIONS), tuple(ACTIONS.values())
MAX_CHANGES = 1  # how often anybody's number changes: a sum has one step
MAX_COUNT = 12  # sums about counted things stay small enough to know by heart


class Event(NamedTuple):
    """One thing that is so, or that happens. Unused fields stay empty."""

    kind: str
    who: str = ""
    place: str = ""
    thing: str = ""  # an object, a counted thing, a feeling or a kind of weather
    other: str = ""  # the second person
    back: str = ""  # what comes back in a swap
    number: int = 0
    how: str = ""  # the verb of a gain or a loss


# @learn:data.synthetic_world
@dataclass
class World:
    """The state after every event in `log`. An object is in `lies` or in `held`, never in both."""

    person_at: dict[str, str] = field(default_factory=dict)
    lies: dict[str, str] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    count: dict[tuple[str, str], int] = field(default_factory=dict)
    feeling: dict[str, str] = field(default_factory=dict)
    weather: str = ""
    log: list[Event] = field(default_factory=list)

    def apply(self, event: Event) -> None:
        """Let the event happen. AssertionError if the world does not allow it."""
        getattr(self, f"_{event.kind}")(event)
        self.log.append(event)

    def together(self, who: str, other: str) -> bool:
        return who != other and self.person_at[who] == self.person_at[other]

    def _is_at(self, e: Event) -> None:
        self.person_at[e.who] = e.place

    def _lies(self, e: Event) -> None:
        self.lies[e.thing] = e.place

    def _holds(self, e: Event) -> None:
        self.held[e.thing] = e.who

    def _move(self, e: Event) -> None:
        assert self.person_at[e.who] != e.place, "already there"
        self.person_at[e.who] = e.place

    def _take(self, e: Event) -> None:
        assert self.lies[e.thing] == self.person_at[e.who], "out of reach"
        del self.lies[e.thing]
        self.held[e.thing] = e.who

    def _drop(self, e: Event) -> None:
        assert self.held[e.thing] == e.who and self.person_at[e.who] == e.place
        del self.held[e.thing]
        self.lies[e.thing] = e.place

    def _give(self, e: Event) -> None:
        assert self.held[e.thing] == e.who and self.together(e.who, e.other)
        self.held[e.thing] = e.other

    def _swap(self, e: Event) -> None:
        assert self.held[e.thing] == e.who and self.held[e.back] == e.other
        assert self.together(e.who, e.other)
        self.held[e.thing], self.held[e.back] = e.other, e.who

    def _feel(self, e: Event) -> None:
        self.feeling[e.who] = e.thing

    def _weather(self, e: Event) -> None:
        self.weather = e.thing

    def _count(self, e: Event) -> None:
        self.count[e.who, e.thing] = e.number

    def _gain(self, e: Event) -> None:
        self.count[e.who, e.thing] += e.number

    def _lose(self, e: Event) -> None:
        assert self.count[e.who, e.thing] >= e.number > 0, "nobody has less than nothing"
        self.count[e.who, e.thing] -= e.number

    def _share(self, e: Event) -> None:
        assert self.together(e.who, e.other)
        self._lose(e)
        self.count[e.other, e.thing] += e.number

    def _want(self, e: Event) -> None:
        pass  # a wish changes nothing by itself; next_event pursues it


class Cast(NamedTuple):
    """What a story is made of, before anything happens."""

    people: list[str]
    places: list[str]
    objects: list[str]
    thing: str  # what is counted, or ""
    events: int
    apart: bool  # everybody starts in a place of their own


def draw_cast(rng: Random, settings: WorldSettings, difficulty: float, exam: bool) -> Cast:
    """A cast whose lead (first person, place and object) lies on the asked side of the wall."""

    def size(low: int, high: int) -> int:
        return min(high, low + int((high - low) * difficulty + rng.random()))

    lexicon = words()
    # Easy stories have few events, not few people: with nobody to confuse nothing is learned.
    apart = rng.random() > difficulty
    n_people = size(2, settings.max_people)
    if apart:
        n_people = 3 + int(rng.random() * (settings.crowd - 2))
    n_places = n_people + 1 if apart else size(3, settings.max_places)
    n_objects = size(int(rng.random() < 0.7), settings.max_objects)
    thing = ""
    if rng.random() < 0.5:
        thing = pick(rng, list(lexicon["things"])[: settings.things])
    events = size(settings.min_events, settings.max_events)
    while True:
        people = rng.sample(people_names(settings), n_people)
        places = rng.sample(lexicon["places"][: settings.places], n_places)
        objects = rng.sample(lexicon["objects"][: settings.objects], n_objects)
        if held_out(people[0], places[0], *objects[:1]) == exam:
            return Cast(people, places, objects, thing, events, apart)


def introduce(rng: Random, cast: Cast, world: World) -> None:
    """Say where everybody and everything is. The lead person, place and object come first."""
    for i, who in enumerate(cast.people):
        place = cast.places[i] if cast.apart or i == 0 else pick(rng, cast.places)
        world.apply(Event("is_at", who, place=place))
    for thing in cast.objects:
        if rng.random() < 0.3:
            world.apply(Event("holds", pick(rng, cast.people), thing=thing))
        else:
            world.apply(Event("lies", thing=thing, place=pick(rng, cast.places)))
    if cast.thing:
        owners = cast.people if rng.random() < 0.5 else cast.people[:1]
        for who in owners[:2]:
            world.apply(Event("count", who, thing=cast.thing, number=1 + int(rng.random() * 6)))
    if rng.random() < 0.25:
        world.apply(Event("weather", thing=pick(rng, words()["weather"])))
    for who in cast.people:
        if rng.random() < (0.7 if cast.apart else 0.3):
            world.apply(Event("feel", who, thing=pick(rng, words()["feelings"])))


def _move(rng: Random, cast: Cast, world: World) -> Event:
    who = pick(rng, cast.people)
    return Event(
        "move", who, place=pick(rng, [p for p in cast.places if p != world.person_at[who]])
    )


def _propose_object(rng: Random, kind: str, cast: Cast, world: World) -> Event | None:
    """Take, drop, give, swap or want: something that happens to an object."""
    if kind == "want":
        free = list(world.lies)
        return Event("want", pick(rng, cast.people), thing=pick(rng, free)) if free else None
    if kind == "take":
        reach = [
            (p, o) for o, at in world.lies.items() for p in cast.people if world.person_at[p] == at
        ]
        if not reach:
            return None
        who, thing = pick(rng, reach)
        return Event("take", who, thing=thing)
    if not world.held:
        return None
    thing, who = pick(rng, list(world.held.items()))
    if kind == "drop":
        return Event("drop", who, place=world.person_at[who], thing=thing)
    others = [p for p in cast.people if world.together(who, p)]
    if not others:
        return None
    other = pick(rng, others)
    if kind == "give":
        return Event("give", who, thing=thing, other=other)
    back = [o for o, holder in world.held.items() if holder == other]
    return Event("swap", who, thing=thing, other=other, back=pick(rng, back)) if back else None


def _propose_count(rng: Random, kind: str, world: World) -> Event | None:
    """Gain, lose or share; at most MAX_CHANGES for each person, so that sums stay short."""
    if not world.count:
        return None
    (who, thing), number = pick(rng, list(world.count.items()))
    if changes(world, who, thing) >= MAX_CHANGES:
        return None
    if kind == "gain":
        more = 1 + int(rng.random() * 4)
        how = pick(rng, frames()["gain_verbs"])
        fits = number + more <= MAX_COUNT
        return Event("gain", who, thing=thing, number=more, how=how) if fits else None
    if number == 0:
        return None
    less = 1 + int(rng.random() * min(4, number))
    if kind == "lose":
        return Event("lose", who, thing=thing, number=less, how=pick(rng, frames()["lose_verbs"]))
    for (other, _), theirs in world.count.items():
        fits = theirs + less <= MAX_COUNT and changes(world, other, thing) < MAX_CHANGES
        if fits and world.together(who, other):
            return Event("share", who, thing=thing, number=less, other=other)
    return None


def changes(world: World, who: str, thing: str) -> int:
    """How often the number of things of this person has changed."""
    kinds = ("gain", "lose", "share")
    return sum(e.kind in kinds and e.thing == thing and who in (e.who, e.other) for e in world.log)


def _pursue(rng: Random, world: World) -> Event | None:
    """Whoever spoke a wish last goes for it: walk to the object, then take it."""
    wishes = [e for e in world.log[-3:] if e.kind == "want" and e.thing in world.lies]
    if not wishes:
        return None
    who, thing = wishes[-1].who, wishes[-1].thing
    if world.person_at[who] == world.lies[thing]:
        return Event("take", who, thing=thing)
    return Event("move", who, place=world.lies[thing])


def next_event(rng: Random, cast: Cast, world: World) -> Event:
    """Something that can happen now: a wish pursued, a drawn action, or else a walk."""
    if rng.random() < 0.7:
        goal = _pursue(rng, world)
        if goal:
            return goal
    for kind in rng.choices(NAMES, WEIGHTS, k=3):
        event = None
        if kind == "move":
            break
        if kind == "feel":
            event = Event("feel", pick(rng, cast.people), thing=pick(rng, words()["feelings"]))
        elif kind == "weather":
            event = Event("weather", thing=pick(rng, words()["weather"]))
        elif kind in ("gain", "lose", "share"):
            event = _propose_count(rng, kind, world)
        else:
            event = _propose_object(rng, kind, cast, world)
        if event:
            return event
    return _move(rng, cast, world)


def simulate(rng: Random, cast: Cast) -> World:
    """Introduce the cast and let `cast.events` things happen."""
    world = World()
    introduce(rng, cast, world)
    if cast.apart and rng.random() < 0.6:  # an easy story has something to count, too
        kind = pick(rng, ("gain", "lose"))
        if change := _propose_count(rng, kind, world):
            world.apply(change)
    for _ in range(cast.events):
        world.apply(next_event(rng, cast, world))
    return world
