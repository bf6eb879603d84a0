"""Learning and comparing vocabularies from the command line."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

from nanochat import compression
from nanochat.cli import UserError
from nanochat.compression import NotReversible, bytes_per_token, compare, sample_texts
from nanochat.dataset import NoSuchDataset
from nanochat.tokenizer import CorpusTooSmall, Tokenizer, TokenizerMissing
from scripts import tok_eval, tok_train

LINES = [f"Anna has {n} red balls and Bob has none of them.\n\n" for n in range(1500)]


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setattr(compression, "LIBRARY_CHARACTERS", 200_000)  # enough for 300 tokens
    return tmp_path


@pytest.fixture
def book(base):
    path = base / "book.txt"
    path.write_text("".join(LINES), encoding="utf-8")
    return path


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_vocabulary_is_learned_saved_and_compared(book, capsys):
    assert not tok_train.main(["--data", str(book), "--vocab-size", "300", "--json"])
    facts = last_line(capsys)
    tokenizer = Tokenizer.load(book.parent / "base" / "tokenizer", vocab_size=300)
    assert facts["fingerprint"] == tokenizer.fingerprint()
    assert facts["vocab_size"] == 300 and facts["val_bytes_per_token"] > 1.5

    assert not tok_eval.main(["--json"])
    facts = last_line(capsys)
    table = facts["bytes_per_token"]
    assert set(table) == {"news", "code", "maths", "Korean", "scripts", "emoji"}
    assert all(row["raw bytes"] == 1.0 for row in table.values())
    assert table["news"]["characters"] == 1.0 and table["Korean"]["characters"] > 2
    news = sample_texts()["news"][0]
    assert table["news"]["this tokenizer"] == len(news.encode()) / len(tokenizer.encode(news))
    ElementTree.parse(facts["chart"])


def test_limits_change_what_is_learned_from(book, capsys):
    tok_train.main(["--data", str(book), "--vocab-size", "280"])
    whole = Tokenizer.load(book.parent / "base" / "tokenizer")
    tok_train.main(["--data", str(book), "--vocab-size", "280", "--max-chars", "60"])
    assert Tokenizer.load(book.parent / "base" / "tokenizer").ranks != whole.ranks
    with pytest.raises(CorpusTooSmall, match="learned from 10 characters"):
        tok_train.main(["--data", str(book), "--max-chars", "10"])


def test_tinyworld_is_compared_where_it_was_made(base):
    from test_dataset import write

    assert "TinyWorld" not in sample_texts()
    folder = base / "base" / "data" / "tinyworld"
    folder.mkdir(parents=True)
    write(folder / "val.parquet", LINES)
    assert sample_texts()["TinyWorld"] == LINES[: compression.TINYWORLD_DOCUMENTS]


def test_bytes_per_token_is_over_all_texts_together():
    assert bytes_per_token(["aaaa", "b"], lambda text: 1) == 2.5


def test_a_tokenizer_that_loses_text_is_caught(monkeypatch):
    tokenizer = Tokenizer.train(LINES, 280)
    monkeypatch.setattr(tokenizer, "decode", lambda ids: "something else")
    with pytest.raises(NotReversible, match="the news text"):
        compare(tokenizer, {"news": ["words"]})


def test_mistakes_are_named(base):
    (base / "empty").mkdir()
    (base / "blank.txt").write_text("\n\n \n")
    with pytest.raises(TokenizerMissing, match="nanochat tok-train"):
        tok_eval.main([])
    with pytest.raises(NoSuchDataset):
        tok_train.main(["--data", "nowhere"])
    with pytest.raises(CorpusTooSmall, match="empty"):
        tok_train.main(["--data", str(base / "blank.txt")])
    with pytest.raises(UserError, match="holds no file"):
        tok_train.main(["--data", str(base / "empty")])
    with pytest.raises(SystemExit) as left:
        tok_train.main(["--vocabulary", "7"])
    assert left.value.code == 2
