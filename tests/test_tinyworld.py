"""The world keeps its own rules; every answer agrees with a slow oracle that rereads the log."""

import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.tinyworld_exam import ExamItem, grade
from nanochat.tinyworld_questions import STORY_KINDS, Question, ask, ask_absent
from nanochat.tinyworld_settings import WorldSettings, frames, stream, words
from nanochat.tinyworld_simulate import Event, World
from nanochat.tinyworld_stories import Story, story

SETTINGS = WorldSettings()
seeds = st.integers(0, 10**9)
levels = st.floats(0, 1)


def make_story(seed: int, difficulty: float) -> Story:
    return story(Random(seed), SETTINGS, difficulty)


def as_item(q: Question) -> ExamItem:
    return ExamItem(
        q.kind, [{"role": "user", "content": q.ask}], q.answer, q.check, q.key, q.choices
    )


def by_hand() -> World:
    world = World()
    for event in (
        Event("is_at", "Anna", place="garden"),
        Event("is_at", "Tom", place="kitchen"),
        Event("lies", thing="lamp", place="garden"),
        Event("count", "Anna", thing="apple", number=3),
        Event("take", "Anna", thing="lamp"),
        Event("move", "Anna", place="kitchen"),
        Event("give", "Anna", thing="lamp", other="Tom"),
        Event("gain", "Anna", thing="apple", number=2, how="found"),
    ):
        world.apply(event)
    return world


def test_a_story_worked_out_by_hand():
    world = by_hand()
    assert world.person_at == {"Anna": "kitchen", "Tom": "kitchen"}
    assert world.held == {"lamp": "Tom"} and world.lies == {}
    assert world.count == {("Anna", "apple"): 5}


@pytest.mark.parametrize(
    "impossible",
    [
        Event("move", "Anna", place="kitchen"),
        Event("take", "Anna", thing="lamp"),
        Event("drop", "Anna", place="kitchen", thing="lamp"),
        Event("give", "Anna", thing="lamp", other="Tom"),
        Event("give", "Tom", thing="lamp", other="Tom"),
        Event("lose", "Anna", thing="apple", number=6, how="ate"),
    ],
)
def test_the_world_refuses_what_cannot_happen(impossible):
    world = by_hand()
    before = len(world.log)
    with pytest.raises((AssertionError, KeyError)):
        world.apply(impossible)
    assert len(world.log) == before and world.held == {"lamp": "Tom"}


@settings(max_examples=150, deadline=None)
@given(seeds, levels)
def test_everything_is_in_one_place_and_nothing_is_counted_below_zero(seed, difficulty):
    tale = make_story(seed, difficulty)
    world, replay = tale.world, World()
    for event in world.log:  # after every event, not only at the end
        replay.apply(event)
        assert not set(replay.lies) & set(replay.held)
        assert all(number >= 0 for number in replay.count.values())
        assert set(replay.held.values()) <= set(replay.person_at)
        assert set(replay.lies.values()) <= set(tale.cast.places)
    assert replay == world
    assert set(world.lies) | set(world.held) == set(tale.cast.objects)
    assert set(world.person_at) == set(tale.cast.people)


@settings(max_examples=100, deadline=None)
@given(seeds, levels)
def test_the_text_tells_every_event_in_order(seed, difficulty):
    """What an event is about is found in the text after what the event before it was about."""
    tale, at = make_story(seed, difficulty), 0
    for event in tale.world.log:
        about = event.place or event.thing
        plural = words()["things"].get(about, about)
        found = re.search(rf"\b({about}|{plural})\b", tale.text[at:])
        assert found and event.who in tale.text
        at += found.end()


# --- the oracle --------------------------------------------------------------------------------


def last(log: list[Event], fits) -> Event:
    return next(e for e in reversed(log) if fits(e))


def asked_about(world: World, kind: str) -> Question:
    question = ask(Random(0), Story("", world, make_story(1, 0.5).cast), kind, rare=False)
    assert question
    return question


def oracle_place(log: list[Event], who: str) -> str:
    return last(log, lambda e: e.who == who and e.kind in ("is_at", "move")).place


def oracle_holder(log: list[Event], thing: str) -> str:
    """Nobody, or who got it last."""
    event = last(log, lambda e: e.kind != "want" and thing in (e.thing, e.back))
    if event.kind in ("lies", "drop"):
        return "Nobody"
    if event.kind == "give" or (event.kind == "swap" and event.thing == thing):
        return event.other
    return event.who


def oracle_object(log: list[Event], thing: str) -> str:
    holder = oracle_holder(log, thing)
    if holder != "Nobody":
        return oracle_place(log, holder)
    return last(log, lambda e: e.thing == thing and e.kind in ("lies", "drop")).place


def oracle_count(log: list[Event], who: str, thing: str) -> int:
    total = 0
    for e in log:
        if e.thing == thing and who in (e.who, e.other):
            sign = -1 if e.kind == "lose" or (e.kind == "share" and e.who == who) else 1
            total += sign * e.number
    return total


def oracle_first(log: list[Event], text: str) -> str:
    """Find both deeds of the question in the log and compare where they stand."""
    deeds = re.findall(r"(\w+) (went to|took) the (\w+)", text)
    if deeds:
        at = {}
        for who, verb, noun in deeds:
            kind = "move" if verb == "went to" else "take"
            places = [i for i, e in enumerate(log) if (e.kind, e.who) == (kind, who)]
            at[f"{who} {noun}"] = next(i for i in places if noun in (log[i].place, log[i].thing))
        return min(at, key=lambda deed: at[deed])
    one, two = re.findall(r", .*?(\w+) or (\w+)\?", text)[0]
    return next(e.who for e in log if e.kind == "move" and e.who in (one, two))


def oracle(tale: Story, q: Question) -> str:
    """The key worked out from the words of the question and the log alone."""
    log, asked = tale.world.log, re.findall(r"[A-Za-z]+", q.ask)
    who = next((p for p in tale.cast.people if p in asked), "")
    thing = next((o for o in tale.cast.objects if o in asked), "")
    place = next((p for p in tale.cast.places if p in asked), "")
    if q.kind == "where_person":
        return oracle_place(log, who)
    if q.kind in ("where_object", "two_hop"):
        return oracle_object(log, thing)
    if q.kind == "who_has":
        return oracle_holder(log, thing)
    if q.kind == "how_many":
        return str(oracle_count(log, who, tale.cast.thing))
    if q.kind == "first":
        return oracle_first(log, q.ask)
    if q.kind == "yes_no":
        true = oracle_holder(log, thing) == who if thing else oracle_place(log, who) == place
        return "yes" if true else "no"
    kind = "feel" if who else "weather"
    return last(log, lambda e: e.kind == kind and e.who == who).thing


@settings(max_examples=100, deadline=None)
@given(seeds, levels)
def test_the_world_ends_as_the_oracle_says(seed, difficulty):
    world = make_story(seed, difficulty).world
    assert all(place == oracle_place(world.log, who) for who, place in world.person_at.items())
    assert all(who == oracle_holder(world.log, thing) for thing, who in world.held.items())
    assert all(place == oracle_object(world.log, thing) for thing, place in world.lies.items())
    assert all(n == oracle_count(world.log, *key) for key, n in world.count.items())


@settings(max_examples=300, deadline=None)
@given(seeds, levels, st.sampled_from(STORY_KINDS))
def test_every_answer_agrees_with_an_oracle_that_rereads_the_log(seed, difficulty, kind):
    tale = make_story(seed, difficulty)
    q = ask(Random(seed), tale, kind)
    if q:
        assert q.key == oracle(tale, q)
        assert grade(as_item(q), q.answer)


def test_the_stories_do_lead_to_questions_of_every_kind():
    found = {kind: 0 for kind in STORY_KINDS}
    for seed in range(300):
        tale = make_story(seed, 0.6)
        for kind in STORY_KINDS:
            found[kind] += ask(Random(seed), tale, kind) is not None
    assert min(found.values()) > 30, found


@settings(max_examples=100, deadline=None)
@given(seeds, levels)
def test_what_the_story_does_not_say_is_really_absent(seed, difficulty):
    tale = make_story(seed, difficulty)
    q = ask_absent(Random(seed), tale, SETTINGS)
    asked = set(re.findall(r"[A-Za-z]+", q.ask))
    told = set(re.findall(r"[A-Za-z]+", tale.text))
    unknown = asked & set(words()["she"] + words()["he"] + words()["objects"])
    silent = unknown <= set(tale.cast.people) and "feel" in q.answer
    assert unknown and (not unknown & told or silent)
    if silent:
        assert not unknown & set(tale.world.feeling)


def test_how_many_states_its_sums_before_the_number():
    q = asked_about(by_hand(), "how_many")
    assert q.answer == "Anna had 3 apples and found 2 more: 3 + 2 = 5. Anna has 5 apples."


def test_two_hop_says_who_before_where():
    q = asked_about(by_hand(), "two_hop")
    assert q.answer == "Tom has the lamp and Tom is in the kitchen, so the lamp is in the kitchen."


def test_there_are_hundreds_of_surface_forms():
    table = frames()
    patterns = sum(len(v) for k, v in table.items() if isinstance(v, list))
    patterns += sum(len(v) for v in table["ask"].values())
    assert patterns > 150
    texts = [re.sub(r"\d+", "#", make_story(seed, 0.7).text) for seed in range(400)]
    entities = {
        w for k in ("she", "he", "places", "objects", "feelings", "weather") for w in words()[k]
    }
    forms = {
        " ".join("_" if w.strip(".,:") in entities else w for w in sentence.split())
        for text in texts
        for sentence in re.split(r"(?<=[.!]) ", text)
    }
    assert len(forms) > 500


def test_harder_stories_have_more_events():
    def events(difficulty: float) -> float:
        tales = (story(stream(0, "size", i), SETTINGS, difficulty) for i in range(200))
        return sum(len(t.world.log) for t in tales) / 200

    assert events(0) < events(0.5) < events(1)
