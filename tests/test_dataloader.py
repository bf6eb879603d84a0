"""Packing against a naive packer, and resuming against never having stopped."""

import json
from itertools import islice

import pyarrow
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from nanochat.dataloader import PackedLoader, StateMismatch, one_ahead
from nanochat.dataset import EmptyCorpus, open_documents
from nanochat.tokenizer import Tokenizer

BYTES = Tokenizer.train(["ab"], 265)  # a token is a byte: lengths are easy to see
BOS = BYTES.special("bos")


def write_parquet(path, texts, rows_per_group=4):
    parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=rows_per_group)


def story(number):
    return f"{number}:" + "x" * (number * 7 % 23)


def corpus(folder, documents=60, files=3, rows_per_group=10):
    """Numbered documents of lengths 2 to 26, spread over files in order."""
    folder.mkdir(exist_ok=True)
    each = -(-documents // files)
    for file in range(files):
        numbers = range(file * each, min((file + 1) * each, documents))
        write_parquet(folder / f"train-{file}.parquet", [story(n) for n in numbers], rows_per_group)
    write_parquet(folder / "val.parquet", ["held out"])
    return open_documents(folder)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("corpus"))


def loader(documents, **changes):
    shape = {"batch_size": 2, "sequence_len": 31, "buffer_documents": 8}
    return PackedLoader(documents, BYTES, **{**shape, **changes})


def batches(source, count):
    return [(x.tolist(), y.tolist()) for x, y in islice(source, count)]


def naive_rows(texts, capacity, buffer_documents):
    """The rule, word for word: the largest that fits (oldest of equals), else crop the shortest."""
    texts = iter(texts)
    waiting: list[list[int]] = []
    while True:
        row: list[int] = []
        while len(row) < capacity:
            while len(waiting) < buffer_documents:
                waiting.append([BOS, *next(texts).encode()])
            space = capacity - len(row)
            fitting = [d for d in waiting if len(d) <= space]
            if fitting:
                chosen = next(d for d in waiting if len(d) == max(map(len, fitting)))
            else:
                chosen = next(d for d in waiting if len(d) == min(map(len, waiting)))
            waiting = [d for d in waiting if d is not chosen]
            row += chosen[:space]
        yield row


def for_ever(documents):
    while True:
        yield from documents


def test_rows_of_a_hand_worked_corpus(tmp_path):
    write_parquet(tmp_path / "train.parquet", ["aaa", "b", "cc", "dddddd"])
    write_parquet(tmp_path / "val.parquet", ["v"])
    loaded = PackedLoader(open_documents(tmp_path), BYTES, 1, 7, buffer_documents=4)
    inputs, targets = next(loaded)
    # 8 to fill: <bos>dddddd is 7; then nothing fits into 1, so <bos>b is cut to <bos>
    assert inputs.tolist() == [[BOS, *b"dddddd"]]
    assert targets.tolist() == [[*b"dddddd", BOS]]
    # meanwhile the second pass refilled the buffer with aaa and b: cc, aaa, aaa, b are waiting
    inputs, targets = next(loaded)
    assert inputs.tolist() == [[BOS, *b"aaa", BOS, *b"aa"]]
    assert targets.tolist() == [[*b"aaa", BOS, *b"aaa"]]


@settings(max_examples=12, deadline=None)
@given(length=st.integers(1, 40), buffer=st.integers(1, 20))
def test_packing_equals_the_naive_packer(documents, length, buffer):
    expected = naive_rows(for_ever(documents), length + 1, buffer)
    loaded = loader(documents, batch_size=1, sequence_len=length, buffer_documents=buffer)
    for inputs, targets in islice(loaded, 30):
        row = next(expected)
        assert inputs[0].tolist() == row[:-1] and targets[0].tolist() == row[1:]


def test_batches_are_int64_rows_that_begin_with_bos(documents):
    inputs, targets = next(loader(documents, batch_size=3, sequence_len=17))
    assert inputs.shape == targets.shape == (3, 17)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs[:, 0].tolist() == [BOS] * 3
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert inputs.is_contiguous() and targets.is_contiguous()


def test_a_buffer_of_one_keeps_the_order_of_documents(documents):
    rows = [r for x, _ in batches(loader(documents, buffer_documents=1), 9) for r in x]
    numbers = [int(bytes(part).split(b":")[0]) for row in rows for part in documents_in(row)]
    assert numbers == sorted(numbers) and numbers[0] == 0


def documents_in(row):
    """The token lists between the bos of a row, but for one that was cut to less than its name."""
    parts: list[list[int]] = []
    for token in row:
        if token == BOS:
            parts.append([])
        else:
            parts[-1].append(token)
    return [p for p in parts if ord(":") in p]


def test_with_keep_tails_no_token_is_lost(tmp_path):
    write_parquet(tmp_path / "train.parquet", ["abcdefghij" * 20])
    write_parquet(tmp_path / "val.parquet", ["v"])
    kept = loader(open_documents(tmp_path), buffer_documents=1, keep_tails=True, batch_size=1)
    seen = [t for x, y in batches(kept, 20) for t in [x[0][0], *y[0]] if t != BOS]
    assert bytes(seen) == (b"abcdefghij" * 100)[: len(seen)]


# --- going on ---


@settings(max_examples=20, deadline=None)
@given(
    stop=st.integers(0, 40),
    buffer=st.integers(1, 90),
    ranks=st.sampled_from([(0, 1), (1, 2), (2, 5), (6, 7), (3, 20)]),
    keep_tails=st.booleans(),
)
def test_a_resumed_loader_equals_one_that_never_stopped(documents, stop, buffer, ranks, keep_tails):
    options = {"buffer_documents": buffer, "keep_tails": keep_tails}
    options.update(rank=ranks[0], world_size=ranks[1])
    whole = loader(documents, **options)
    batches(whole, stop)
    state = json.loads(json.dumps(whole.state_dict()))
    resumed = loader(documents, state=state, **options)
    assert resumed.state_dict() == state
    assert batches(resumed, 12) == batches(whole, 12)
    assert resumed.state_dict() == whole.state_dict()


def test_prefetching_changes_neither_batches_nor_states(documents):
    plain, ahead = loader(documents), loader(documents, prefetch=True)
    for _ in range(15):
        assert batches(ahead, 1) == batches(plain, 1)
        assert ahead.state_dict() == plain.state_dict()
    resumed = loader(documents, prefetch=True, state=ahead.state_dict())
    assert batches(resumed, 9) == batches(plain, 9)


def test_threads_change_nothing(documents):
    assert batches(loader(documents, threads=3), 9) == batches(loader(documents), 9)


def test_an_error_while_prefetching_reaches_the_caller():
    def failing():
        yield 1
        raise EmptyCorpus("no more")

    items = one_ahead(failing())
    assert next(items) == 1
    with pytest.raises(EmptyCorpus):
        next(items)


def test_the_epoch_counts_finished_passes(documents):
    loaded = loader(documents, batch_size=1, buffer_documents=1)
    epochs = [loaded.epoch for _ in islice(loaded, 120)]
    assert epochs[0] == 0 and epochs == sorted(epochs) and epochs[-1] >= 2


@pytest.mark.parametrize("change", ["data", "tokenizer", "world_size"])
def test_a_state_of_something_else_is_refused(documents, tmp_path, change):
    state = loader(documents, rank=1, world_size=2).state_dict()
    other = Tokenizer.train(["abab"], 266)
    made = {
        "data": (corpus(tmp_path, documents=30), BYTES, 2),
        "tokenizer": (documents, other, 2),
        "world_size": (documents, BYTES, 3),
    }
    source, tokenizer, world_size = made[change]
    with pytest.raises(StateMismatch, match=change if change != "data" else "documents"):
        PackedLoader(source, tokenizer, 2, 31, rank=1, world_size=world_size, state=state)


# --- ranks, tiny corpora ---


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 7, 61])
def test_ranks_share_the_documents_and_none_goes_without(documents, world_size):
    """60 documents in 6 row groups: with more ranks than either, still something for each."""
    each = max(60 // world_size, 2)
    taken = [
        [text for _, text in islice(documents.stream(rank, world_size), each)]
        for rank in range(world_size)
    ]
    assert all(len(texts) == each for texts in taken)
    together = [text for texts in taken for text in texts]
    if world_size in (1, 2, 3, 6):  # these divide the row groups evenly: one pass, each text once
        assert sorted(together) == sorted(documents)
    if world_size == 61:  # two rounds of 61 are twice through the 60 and the first two again
        assert sorted(together) == sorted([*documents, *documents, story(0), story(1)])


@pytest.mark.parametrize("texts", [["a"], ["a", "bb"], ["", "only this", ""]])
def test_a_tiny_corpus_in_one_row_group_fills_any_batch(tmp_path, texts):
    write_parquet(tmp_path / "train.parquet", texts)
    write_parquet(tmp_path / "val.parquet", ["v"])
    for rank in range(3):
        inputs, _ = next(loader(open_documents(tmp_path), rank=rank, world_size=3))
        assert inputs.shape == (2, 31)


def test_a_corpus_without_text_is_an_error_and_not_an_endless_search(tmp_path):
    write_parquet(tmp_path / "train.parquet", ["", "  \n", None])
    write_parquet(tmp_path / "val.parquet", ["v"])
    for world_size in (1, 4):
        with pytest.raises(EmptyCorpus, match="holds not one document"):
            next(loader(open_documents(tmp_path), world_size=world_size))


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lengths=st.lists(st.integers(0, 50), min_size=1, max_size=20),
    rows_per_group=st.integers(1, 6),
    ranks=st.integers(1, 5),
    stop=st.integers(0, 9),
)
def test_any_small_corpus_is_loaded_and_resumed(
    tmp_path_factory, lengths, rows_per_group, ranks, stop
):
    folder = tmp_path_factory.mktemp("any")
    write_parquet(folder / "train.parquet", ["z" * n for n in lengths], rows_per_group)
    write_parquet(folder / "val.parquet", ["v"])
    documents = open_documents(folder)
    for rank in range(ranks):
        whole = loader(documents, rank=rank, world_size=ranks)
        try:
            batches(whole, stop)
        except EmptyCorpus:
            assert not all(lengths)  # only where documents without text are all there is for it
            continue
        resumed = loader(documents, rank=rank, world_size=ranks, state=whole.state_dict())
        if any(lengths):
            try:
                assert batches(resumed, 3) == batches(whole, 3)
            except EmptyCorpus:
                assert not all(lengths)
