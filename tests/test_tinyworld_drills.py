"""Drills tell the truth: a key keeps its value down the page, a verdict is what the words say."""

import re
from random import Random

import pytest

from nanochat.tinyworld_dialogues import pretraining_text
from nanochat.tinyworld_drills import comparisons, games, memory_game
from nanochat.tinyworld_settings import WorldSettings

SETTINGS = WorldSettings()


def told_pairs(page: str) -> list[tuple[str, str]]:
    """(key, value) of every sentence. A place or a feeling is a value; of an object and a person
    the object is the key, whatever their order."""
    people, objects, _, moods = games(SETTINGS)
    keys_first = {*people.values, *moods.values}
    named = {*people.keys, *objects.keys, *keys_first}
    found = []
    for sentence in re.split(r"\. |, |[.,]$", page):
        pair = [word for word in re.findall(r"\w+", sentence) if word in named]
        if pair:
            one, two = pair
            ordered = two in keys_first or (one in objects.keys and two in people.keys)
            found.append((one, two) if ordered else (two, one))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_a_value_is_asked_again_and_again_and_the_latest_counts(seed):
    pairs = told_pairs(memory_game(Random(seed), SETTINGS, 0.0))
    keys = {key for key, _ in pairs}
    assert 4 <= len(keys) <= 6
    changed = 0
    for key in keys:
        values = [value for k, value in pairs if k == key]
        assert values.count(values[-1]) >= 4
        first = values.index(values[-1])
        assert set(values[first:]) == {values[-1]}, "a value came back after it had changed"
        assert first <= 1 and len(set(values)) <= 2
        changed += first
    assert changed in (0, 2)


@pytest.mark.parametrize("seed", range(10))
def test_a_verdict_is_what_the_two_words_say(seed):
    page = comparisons(Random(seed), SETTINGS, 0.0)
    verdicts = re.findall(r"(\w+) (?:and )?(\w+):? (same|different)\.", page)
    assert len(verdicts) == page.count(".") > 40
    assert all((one == two) == (verdict == "same") for one, two, verdict in verdicts)
    assert {verdict for _, _, verdict in verdicts} == {"same", "different"}


def test_the_first_documents_are_drills_and_the_last_are_stories_too():
    total = 400
    drills = [pretraining_text(SETTINGS, i, total) for i in range(int(SETTINGS.drills * total))]
    later = [pretraining_text(SETTINGS, i, total) for i in range(len(drills), total)]
    stories = re.compile("Question: .* Answer: ")
    assert not any(stories.search(text) for text in drills)
    assert sum(bool(stories.search(text)) for text in later) > 10
