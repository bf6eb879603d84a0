"""Documents, dialogues and files: sizes, determinism, and what is on disk afterwards."""

import hashlib
import json
import re
from random import Random

import pytest
from pyarrow import parquet

from nanochat.tinyworld import (
    TinyWorldError,
    WorldSettings,
    conversation,
    load_exam,
    make,
    pretraining_text,
    write_tinyworld,
)
from nanochat.tinyworld_settings import words
from scripts import tinyworld_make

SMALL = WorldSettings(
    documents=300, val_documents=40, conversations=200, val_conversations=30, exam_per_kind=3
)


def texts_of(dialogue: dict) -> list[str]:
    contents = [m["content"] for m in dialogue["messages"]]
    return [c if isinstance(c, str) else " ".join(p["text"] for p in c) for c in contents]


def test_documents_have_20_to_250_words():
    lengths = [len(pretraining_text(SMALL, i, 1500).split()) for i in range(1500)]
    assert min(lengths) >= 20 and max(lengths) <= 250


def test_dialogues_alternate_and_stay_short():
    for i in range(800):
        dialogue = conversation(SMALL, i, 800, "train")
        roles = [m["role"] for m in dialogue["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
        assert sum(len(text.split()) for text in texts_of(dialogue)) <= 240


def test_the_curriculum_starts_with_the_easiest_stories():
    """A story opens the first message; people who move and take are what makes it hard."""

    def deeds(indices: range) -> float:
        asked = [conversation(SMALL, i, 4000, "train")["messages"][0]["content"] for i in indices]
        tales = [text for text in asked if "\n" in text]
        return sum(text.count(" went ") + text.count(" took ") for text in tales) / len(tales)

    assert deeds(range(300)) < deeds(range(1200, 1500)) < deeds(range(3700, 4000))


def test_sums_go_through_the_calculator():
    found = 0
    for i in range(300):
        for message in conversation(SMALL, i, 300, "train")["messages"]:
            if isinstance(message["content"], list):
                call, output, text = message["content"]
                assert [p["type"] for p in (call, output, text)] == [
                    "python",
                    "python_output",
                    "text",
                ]
                ((x, op, y),) = re.findall(r"^(\d+)([-+*/])(\d+)$", call["text"])
                x, y = int(x), int(y)
                result = {"+": x + y, "-": x - y, "*": x * y, "/": x / y}[op]
                assert float(output["text"]) == result and max(x, y) <= 999
                assert text["text"] == f"{call['text']} is {output['text']}."
                found += 1
    assert found > 20


def test_text_holds_no_chat_marker_and_names_follow_a_space_or_start_a_line():
    names = "|".join(words()["she"] + words()["he"])
    documents = [pretraining_text(SMALL, i, 600) for i in range(600)]
    documents += [t for i in range(400) for t in texts_of(conversation(SMALL, i, 400, "train"))]
    for text in documents:
        assert "<|" not in text and "|>" not in text and "{" not in text
        assert "  " not in text and text == text.strip()
        assert not re.search(rf"[^ \n]({names})\b", text)
        assert not re.search(r"\b[Aa] (?!in\b|are\b)[aeio]\w", text), text


def test_the_same_seed_writes_the_same_text_and_another_seed_does_not():
    other = WorldSettings(seed=1)
    assert pretraining_text(SMALL, 7, 100) == pretraining_text(SMALL, 7, 100)
    assert conversation(SMALL, 7, 100, "train") == conversation(SMALL, 7, 100, "train")
    assert pretraining_text(SMALL, 7, 100) != pretraining_text(other, 7, 100)
    assert conversation(SMALL, 7, 100, "train") != conversation(SMALL, 7, 100, "val")


def test_an_item_does_not_depend_on_what_was_made_before_it():
    order = list(range(60))
    Random(3).shuffle(order)
    shuffled = {i: pretraining_text(SMALL, i, 60) for i in order}
    assert [shuffled[i] for i in range(60)] == [pretraining_text(SMALL, i, 60) for i in range(60)]


@pytest.mark.slow
def test_two_processes_write_what_one_writes():
    one, two = (
        [line for chunk in make(SMALL, "sft-train", 2200, workers) for line in chunk.lines]
        for workers in (1, 2)
    )
    assert one == two and len(one) == 2200


def test_every_file_is_written_with_its_checksum(tmp_path):
    manifest = write_tinyworld(tmp_path, SMALL, workers=1)
    expected = {"train-00000.parquet", "val.parquet", "sft_train.jsonl", "sft_val.jsonl"}
    assert set(manifest["sha256"]) == expected | {"exam.jsonl"}
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    assert not list(tmp_path.glob("*.tmp"))
    train = parquet.ParquetFile(tmp_path / "train-00000.parquet")
    assert train.schema.names == ["text"] and train.num_row_groups == 2
    assert train.read()["text"].to_pylist()[5] == pretraining_text(SMALL, 5, 300)
    lines = (tmp_path / "sft_train.jsonl").read_text().splitlines()
    assert json.loads(lines[9]) == conversation(SMALL, 9, 200, "train")
    assert len(load_exam(tmp_path / "exam.jsonl")) == 3 * 14


def test_the_command_prints_statistics_and_a_second_call_writes_nothing(tmp_path, capsys):
    flags = ["--out", str(tmp_path), "--json", "--workers", "1", "--world.documents", "50"]
    flags += ["--world.val-documents", "5", "--world.conversations", "40"]
    flags += ["--world.val-conversations", "5", "--world.exam-per-kind", "2"]
    tinyworld_make.main(flags)
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["train"]["items"] == 50 and record["train"]["distinct_words"] > 100
    assert record["sft_train"]["distinct_questions"] > 20 and record["sft_train"]["kinds"]
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    tinyworld_make.main(flags)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("wrong", [{"names": 500}, {"max_turns": 1}, {"spelling_words": 0}])
def test_a_wrong_dial_is_one_sentence_that_names_it(tmp_path, wrong):
    with pytest.raises(TinyWorldError, match=r"names|turns|spelling_words"):
        write_tinyworld(tmp_path, WorldSettings(**wrong))


def test_a_missing_exam_says_how_to_make_it(tmp_path):
    with pytest.raises(TinyWorldError, match="tinyworld-make"):
        load_exam(tmp_path / "exam.jsonl")
