"""The exam is held out, balanced, and graded strictly."""

import json
import re
from collections import Counter
from functools import cache
from itertools import product

import pytest

from nanochat.tinyworld import (
    ExamItem,
    WorldSettings,
    conversation,
    exam,
    grade,
    majority_baseline,
    pretraining_text,
)
from nanochat.tinyworld_dialogues import turns
from nanochat.tinyworld_exam import KINDS, from_dict
from nanochat.tinyworld_settings import a, chat, held_out, people_names, words
from nanochat.tinyworld_skills import letter_pairs, opened, spelling_list, sum_held_out
from nanochat.tinyworld_stories import lead

SETTINGS = WorldSettings()


@cache
def items() -> list[ExamItem]:
    return exam(SETTINGS, 50)


def user(item: ExamItem) -> str:
    return item.messages[-1]["content"]


def of_kind(kind: str) -> list[ExamItem]:
    return [item for item in items() if item.kind == kind]


def test_fifty_different_questions_of_every_kind_and_six_hundred_in_all():
    assert Counter(item.kind for item in items()) == dict.fromkeys(KINDS, 50)
    assert len(items()) >= 600
    assert len({user(item) for item in items()}) == len(items())
    assert all(item.messages[-1]["role"] == "user" for item in items())


def test_an_exam_survives_json():
    assert [from_dict(json.loads(json.dumps(i.as_dict()))) for i in items()] == items()


def test_the_canonical_answer_is_graded_right():
    assert [item for item in items() if not grade(item, item.answer)] == []


def test_another_items_answer_is_graded_wrong():
    """Any answer of the same kind whose key differs, an empty reply and a refusal must all fail."""
    for kind in KINDS:
        group = of_kind(kind)
        for item in group:
            assert not grade(item, "")
            if item.check != "phrase":
                assert not grade(item, "The story does not say."), item
            for other in group[:12]:
                if other.check == item.check and not alike(item, other):
                    assert not grade(item, other.answer), (item, other)


def alike(item: ExamItem, other: ExamItem) -> bool:
    """Two questions may share an answer; so may two orders of events with the same names."""
    same = set(item.key.split("|")) & set(other.key.split("|"))
    return bool(same) or (item.check == "order" and item.key in other.answer)


@pytest.mark.parametrize(
    ("check", "key", "choices", "right", "wrong"),
    [
        ("place", "garden", (), "She went to the garden.", "In the garden or in the park"),
        ("person", "Tom", (), "I think it is Tom", "Tom gave it to Anna."),
        ("number", "5", (), "3 + 2 = 5", "5 - 1 = 4"),
        ("number", "1200", (), "That is 1,200.", "120"),
        ("yes_no", "no", ("yes", "no"), "No.", "Anna is in the park, so yes."),
        (
            "order",
            "Anna lamp",
            ("Anna lamp", "Tom hat"),
            "Anna took the lamp before Tom the hat.",
            "Tom took the hat, then Anna the lamp.",
        ),
        ("order", "Tom hat", ("Anna lamp", "Tom hat"), "That was Tom: he took the hat.", "Tom."),
        ("letters", "lamp", (), "It is spelled L, A, M, P.", "l-a-m"),
        ("phrase", "i am fine|well", (), "I am fine!", "Fine day."),
        ("tale", "Anna lamp", (), "Anna had a lamp and she was very happy.", "Anna had a lamp."),
    ],
)
def test_the_grader_reads_the_graded_part(check, key, choices, right, wrong):
    item = ExamItem("any", [], "", check, key, choices)
    assert grade(item, right) and not grade(item, wrong)


def test_answers_are_balanced_within_a_kind():
    assert Counter(i.key for i in of_kind("yes_no")) == {"yes": 25, "no": 25}
    assert Counter(i.key for i in of_kind("who_has"))["Nobody"] <= 50 / 4
    late_first = sum(i.key != i.choices[0] for i in of_kind("first"))
    assert late_first == 25
    refused = sum("does not" in i.answer or "do not" in i.answer for i in of_kind("refusal"))
    assert refused == 30  # who always refuses gets 60%, not 100%
    base = majority_baseline(items())
    assert max(base.values()) <= 0.6, base
    assert base["yes_no"] == 0.5


def test_training_answers_are_balanced_too():
    asked = [q for i in range(3000) for q in turns(SETTINGS, i, 3000, "train")]
    keys = {kind: Counter(q.key for q in asked if q.kind == kind) for kind in KINDS}
    yes_no = keys["yes_no"]
    assert 0.4 < yes_no["yes"] / yes_no.total() < 0.6
    assert keys["who_has"]["Nobody"] / keys["who_has"].total() < 0.3
    assert keys["letter_count"]["0"] / keys["letter_count"].total() < 0.3
    assert keys["refusal"].total() / len(asked) < 0.25
    for kind in KINDS:
        assert keys[kind].total() > 0.015 * len(asked), kind


# --- nothing leaks -----------------------------------------------------------------------------


def training_messages(count: int) -> set[str]:
    chats = (conversation(SETTINGS, i, count, "train") for i in range(count))
    return {m["content"] for c in chats for m in c["messages"] if m["role"] == "user"}


def no_overlap(dialogues: int, documents: int) -> None:
    asked = training_messages(dialogues)
    told = "\n".join(pretraining_text(SETTINGS, i, documents) for i in range(documents))
    told += "\n".join(asked)
    for item in items():
        assert user(item) not in asked
        tale, _, _ = user(item).rpartition("\n")
        assert not tale or tale not in told


@pytest.mark.slow
def test_no_exam_question_or_story_is_in_a_sample_of_the_training_data():
    no_overlap(4000, 2000)


@pytest.mark.slow
def test_no_exam_question_or_story_is_in_all_of_the_training_data():
    no_overlap(SETTINGS.conversations, SETTINGS.documents)


def test_exam_stories_lie_behind_the_wall_and_training_stories_before_it():
    """By construction: the first person, place and object of a text decide its side."""
    behind = [user(i).rpartition("\n")[0] for i in items() if "\n" in user(i)]
    before = [m.rpartition("\n")[0] for m in training_messages(1500) if "\n" in m]
    assert len(behind) > 400 and len(before) > 800
    assert all(held_out(*lead(text, SETTINGS)) for text in behind)
    assert not any(held_out(*lead(text, SETTINGS)) for text in before)


def sides(pairs) -> tuple[set[str], set[str]]:
    """(strings an exam may ask, strings training may use) from (is held out, string)."""
    found: tuple[set[str], set[str]] = (set(), set())
    for behind, text in pairs:
        found[not behind].add(text)
    return found


def universes():
    """Every question without a story that can ever be asked, by kind."""
    table, spell = chat(), spelling_list(SETTINGS)
    yield sides((held_out(w, f), f.format(word=w)) for w, f in product(spell, table["spelling"]))
    yield sides(
        (behind, f.format(word=w, letter=c))
        for behind in (False, True)
        for group in letter_pairs(SETTINGS, behind)
        for w, c in group
        for f in table["letter_count"]
    )
    for kind in ("identity", "chat", "refusal"):
        asks = [ask for entry in table[kind] for ask in entry["ask"]]
        yield sides((held_out(o, x), opened(o, x)) for o, x in product(table["openers"], asks))
    pairs = product(people_names(SETTINGS), words()["objects"][: SETTINGS.objects])
    yield sides(
        (held_out("tell", p, o), f.format(who=p, a_thing=a(o)))
        for p, o in pairs
        for f in table["tell"]
    )


def test_the_two_sides_of_the_wall_share_no_question_string():
    for exam_side, training_side in universes():
        assert exam_side and training_side
        assert not exam_side & training_side


def test_every_word_of_the_exam_is_spelled_in_training_in_another_wording():
    for word in spelling_list(SETTINGS):
        assert any(not held_out(word, f) for f in chat()["spelling"])


def test_exam_sums_are_held_out_with_their_numbers():
    for item in of_kind("calculator"):
        ((x, op, y),) = re.findall(r"^(\d+)([-+*/])(\d+) is", item.answer)
        assert sum_held_out(int(x), int(y), op)
