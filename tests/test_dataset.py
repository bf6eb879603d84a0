"""Every kind of file through the one door, and what it says about files it can't use."""

import json

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from nanochat.corpus_files import (
    Block,
    UnreadableCorpus,
    blocks_of,
    cut_into_documents,
    lines_of,
    read_block,
)
from nanochat.dataset import (
    HUB,
    DataMissing,
    EmptyCorpus,
    NoSuchDataset,
    find_hub_dataset,
    open_documents,
)

TEXTS = [f"document {n}\nwith a second line é🙂" for n in range(45)]


def write(path, texts, rows_per_group=7):
    if path.suffix == ".parquet":
        table = pyarrow.table({"text": texts, "id": list(range(len(texts)))})
        parquet.write_table(table, path, row_group_size=rows_per_group)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), "utf-8")
    else:
        path.write_text("\n\n".join(texts), "utf-8")
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_every_document_is_in_one_split_and_in_order(tmp_path, suffix):
    path = write(tmp_path / f"corpus{suffix}", TEXTS)
    train, val = list(open_documents(path)), list(open_documents(path, "val"))
    assert sorted(train + val) == sorted(TEXTS)
    assert len(val) in (2, 3)  # every 20th
    assert train == [text for text in TEXTS if text not in val]


def test_a_text_file_loses_no_character_but_blank_lines(tmp_path):
    path = write(tmp_path / "book.txt", TEXTS * 20)
    documents = [*open_documents(path), *open_documents(path, "val")]
    assert len(documents) > 5
    words = [word for text in documents for word in text.split()]
    assert sorted(words) == sorted(" ".join(TEXTS * 20).split())


def test_a_folder_is_read_in_the_order_of_names_with_val_files_apart(tmp_path):
    write(tmp_path / "b.jsonl", TEXTS[5:10])
    write(tmp_path / "a.parquet", TEXTS[:5])
    (tmp_path / "inner").mkdir()
    write(tmp_path / "inner" / "c.jsonl", TEXTS[10:15])
    write(tmp_path / "validation.jsonl", TEXTS[40:])
    (tmp_path / "notes.md").write_text("not read")
    assert list(open_documents(tmp_path)) == TEXTS[:15]
    assert list(open_documents(str(tmp_path), "val")) == TEXTS[40:]


def test_a_folder_of_single_documents_is_split_too(tmp_path):
    for number, text in enumerate(TEXTS):
        write(tmp_path / f"{number:03}.txt", [text])
    assert len(list(open_documents(tmp_path, "val"))) == 2
    assert len(list(open_documents(tmp_path, "train"))) == len(TEXTS) - 2


def test_documents_without_text_are_passed_over(tmp_path):
    write(tmp_path / "train.parquet", ["", "a", None, " \n ", "b"])
    write(tmp_path / "val.jsonl", ["v"])
    (tmp_path / "more.jsonl").write_text('\n{"text": "c"}\n\n"d"\n')
    assert list(open_documents(tmp_path)) == ["c", "d", "a", "b"]


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.text(alphabet="aé🙂 ", max_size=12), max_size=12),
    block_bytes=st.integers(1, 40),
    ending=st.sampled_from(["\n", ""]),
)
def test_blocks_of_lines_hold_every_line_once_wherever_they_are_cut(
    tmp_path_factory, lines, block_bytes, ending
):
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_bytes(("\n".join(lines) + ending).encode())
    found = [line for block in blocks_of(path, block_bytes) for line in lines_of(block)]
    expected = path.read_bytes().decode().split("\n")
    assert found == (expected[:-1] if expected[-1] == "" else expected)


@settings(max_examples=60)
@given(st.lists(st.text(alphabet="ab \t", max_size=30), max_size=20), st.integers(1, 25))
def test_cutting_into_documents_keeps_every_letter_and_the_limit(lines, limit):
    documents = list(cut_into_documents(lines, limit))
    assert "".join("".join(documents).split()) == "".join("".join(lines).split())
    assert all(len(text) <= limit for text in documents)


def test_line_ends_and_the_byte_order_mark_of_windows_are_no_text(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n')
    assert [text for block in blocks_of(path) for text in read_block(block)] == ["a", "b"]


def test_a_position_leads_back_to_the_same_place(tmp_path):
    documents = open_documents(write(tmp_path / "corpus.parquet", TEXTS))
    whole = documents.stream()
    start = [next(whole) for _ in range(30)][-1][0]
    again = documents.stream(start=start)
    assert [next(again) for _ in range(60)] == [next(whole) for _ in range(60)]


def test_the_fingerprint_changes_with_the_files(tmp_path):
    path = write(tmp_path / "corpus.parquet", TEXTS)
    before = open_documents(tmp_path).fingerprint()
    assert open_documents(tmp_path).fingerprint() == before
    assert open_documents(tmp_path, "val").fingerprint() != before
    write(path, TEXTS[:-1])
    assert open_documents(tmp_path).fingerprint() != before


# --- TinyWorld and the hub ---


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


def test_tinyworld_is_its_parquet_files_and_not_its_conversations(base):
    folder = base / "data" / "tinyworld"
    with pytest.raises(DataMissing, match="nanochat tinyworld-make"):
        open_documents("tinyworld")
    folder.mkdir(parents=True)
    write(folder / "train-00001.parquet", ["second"])
    write(folder / "train-00000.parquet", ["first"])
    write(folder / "val.parquet", ["held out"])
    (folder / "sft_train.jsonl").write_text('{"messages": []}\n')
    assert list(open_documents("tinyworld")) == ["first", "second"]
    assert list(open_documents("tinyworld", "val")) == ["held out"]


@pytest.mark.parametrize("dataset", HUB, ids=lambda dataset: dataset.name)
def test_the_last_shard_of_a_hub_dataset_is_for_validation(base, dataset):
    with pytest.raises(DataMissing, match=f"data-download --dataset {dataset.name}"):
        open_documents(dataset.name)
    last = dataset.local_file(dataset.shards - 1)
    last.parent.mkdir(parents=True)
    write(dataset.local_file(0), ["a"])
    with pytest.raises(DataMissing, match="validation shard"):
        open_documents(dataset.name)
    write(dataset.local_file(3), ["b"])
    write(last, ["v"])
    (last.parent / (last.name + ".part")).write_bytes(b"half")
    assert list(open_documents(dataset.repository)) == ["a", "b"]
    assert list(open_documents(dataset.name, "val")) == ["v"]


def test_shards_are_named_as_on_the_hub():
    climbmix, fineweb = find_hub_dataset("climbmix"), find_hub_dataset("HuggingFaceFW/fineweb-edu")
    assert climbmix and fineweb
    assert climbmix.path_in_repository(6542) == "shard_06542.parquet"
    assert fineweb.path_in_repository(13) == "sample/10BT/013_00000.parquet"


# --- mistakes of the user ---


def test_an_unknown_source_names_the_known_ones():
    with pytest.raises(NoSuchDataset, match=r"tinyworld, climbmix.*path of a file or folder"):
        open_documents("tinywrold")


def test_nothing_to_read_is_refused(tmp_path):
    with pytest.raises(EmptyCorpus, match="holds no file"):
        open_documents(tmp_path)
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(EmptyCorpus, match="holds no file"):
        open_documents(tmp_path / "photo.png")
    (tmp_path / "a.txt").touch()
    with pytest.raises(EmptyCorpus, match="not one document"):
        open_documents(tmp_path)


def test_a_corpus_too_small_to_hold_anything_out_says_so(tmp_path):
    path = write(tmp_path / "a.jsonl", TEXTS[:3])
    assert len(list(open_documents(path))) == 3
    with pytest.raises(EmptyCorpus, match="hold out for validation"):
        next(open_documents(path, "val").stream())


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "ok"}\n{"text": \n', "no JSON in the line"),
        ("a.jsonl", b'{"body": "ok"}\n', r'a line is {"text"'),
        ("a.txt", b"good\n\xff\xfe bad\n", "not UTF-8 text at byte 5"),
        ("a.parquet", b"PAR1 but not really", "not a whole parquet file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableCorpus, match=words) as caught:
        list(open_documents(tmp_path / name))
    assert name in str(caught.value)


def test_a_parquet_file_with_other_columns_lists_them(tmp_path):
    path = write(tmp_path / "a.parquet", TEXTS)
    with pytest.raises(UnreadableCorpus, match="no column 'body'; its columns: text, id"):
        list(open_documents(path, column="body"))
    with pytest.raises(UnreadableCorpus, match="holds 0, not text"):
        list(open_documents(path, column="id"))


@pytest.mark.parametrize("checksums", [True, False])
def test_a_parquet_file_damaged_in_the_middle_is_named(tmp_path, checksums):
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": [f"{n} " * 100 for n in range(300)]})
    parquet.write_table(table, path, row_group_size=100, write_page_checksum=checksums)
    content = bytearray(path.read_bytes())
    damage = slice(300, 301) if checksums else slice(4, 200)  # one bit, or a page's own header
    content[damage] = bytes(byte ^ 1 for byte in content[damage])
    path.write_bytes(content)  # the footer is whole, the first row group is not
    assert len(blocks_of(path)) == 3
    with pytest.raises(UnreadableCorpus, match="row group 0"):
        read_block(Block(path, 0, 1))
