"""Drills tell the truth: a key keeps its value down the page, a verdict is what the words say."""

import re
from random import Random

import pytest

from nanochat.tinyworld_dialogues import pretraining_text
from nanochat.tinyworld_drills import comparisons, games, memory_game
from nanochat.tinyworld_settings import WorldSettings

SETTINGS = WorldSettings()


def told_pairs(page: str) -> list[tuple[str, str]]:
    """(key, value) of every sentence, by the word lists: places and feelings are values, names
    are keys, and an object is a value beside a name and a key beside a place."""
    people, _, things, moods = games(SETTINGS)
    kinds = {**dict.fromkeys(people.values, "value"), **dict.fromkeys(moods.values, "value")}
    kinds |= dict.fromkeys(people.keys, "key")
    found = []
    for sentence in re.split(r"[.,]", page):
        named = [w for w in sentence.split() if w in kinds or w in things.values]
        if named:
            one, two = named
            swapped = kinds.get(one) == "value" or (one in things.values and two in people.keys)
            found.append((two, one) if swapped else (one, two))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_a_key_keeps_its_value_and_comes_again_and_again(seed):
    pairs = told_pairs(memory_game(Random(seed), SETTINGS, 0.0))
    assert 4 <= len(set(pairs)) <= 6
    assert len(dict(pairs)) == len(set(pairs)), "one key has two values"
    assert min(pairs.count(pair) for pair in set(pairs)) >= 4


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
