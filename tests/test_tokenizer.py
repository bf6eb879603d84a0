"""The tokenizer against slower truths: Hugging Face's reader, the raw bytes, a hand-drawn mask."""

import json
import random
import sys
import unicodedata

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.chat_format import (
    SPECIALS,
    BadConversation,
    Conversation,
    NothingToLearn,
    special_text,
)
from nanochat.tokenizer import (
    FILE_NAME,
    SPLIT_PATTERN,
    CorpusTooSmall,
    Tokenizer,
    TokenizerCorrupt,
    TokenizerMissing,
    VocabularyMismatch,
)

CORPUS = [
    "Anna walks to the garden. She's got the red ball; they'll find 1234 marbles there!\n\n",
    "Bob doesn't know where it is, and we've lost 99 of them... don't ask.\r\n  def f(x):\n\t",
    "Über naïve façade — 東京 서울에서 שלום مرحبا 👩‍👩‍👧 <|bos|> <|user_start|>    \n \n",
]

HOSTILE = {
    "beside the surrogates": "a\ud7ffb\ue000c\uffff\U00010000\U0010ffff",
    "combining marks": "é ñ̃̃̃ Z̴̛̗a̸͎l̷g̶o " + "a" + "\u0301" * 200,
    "joined emoji": "👩‍👩‍👧‍👦👍🏽🏳️‍🌈 1️⃣ \u200d\u200d ‍",
    "right to left": "שלום \u202eمرحبا\u202c \u200f12٣٤ \u2067x\u2069",
    "NULs and controls": "\x00\x00a\x00 \x01\x1c\x1d\x1e\x1f\x7f\x80\x85\x9f\x0b\x0c",
    "private use": "\ue000\uf8ff\U000f0000\U0010fffd",
    "blanks of all kinds": "  \t \u00a0\u1680\u2000\u2028\u2029\u202f\u205f\u3000\ufeff\u200b x",
    "long blanks": " " * 5000 + "x" + "\n" * 3000 + " \n" * 500 + "\t" * 999 + " y",
    "long digits": "1" * 4999 + " ٣٤٥½Ⅷ²" + "0" * 100,
    "long letters": "a" * 5000 + "é" * 3000,
    "line ends": "a\r\nb\rc\n\r\n\n d\r\n\r\n  e!\r\n?\n\n \n",
    "apostrophes": "it's IT'S I'LL we'Ve 'tis ''s 'ſ 'K don''t 'LLama 's's",
    "looks like specials": "".join(special_text(name) for name in SPECIALS) * 2 + "<|bos<|bos|>|>",
    "unassigned": "\u0378\u0379\U0002fe1f\U000e0080",
    "nothing": "",
}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CORPUS * 3, 400)


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    return tokenizer.save(tmp_path_factory.mktemp("tokenizer")).parent


@pytest.fixture(scope="module")
def hugging_face(saved):
    reader = tokenizers.Tokenizer.from_file(str(saved / FILE_NAME))
    reader.encode_special_tokens = True  # text that looks like a special stays text, as with us
    return reader


# --- a hand-worked case ---


def test_the_most_frequent_pair_is_merged_first():
    tokenizer = Tokenizer.train(["aaabdaaabac"], 256 + 3 + len(SPECIALS))
    # aa 4 times; then "aa"+"a" and "a"+"b" twice each: the smaller pair of ids, (a, b), wins
    learned = [tokenizer.decode_bytes([i]) for i in (256, 257, 258)]
    assert learned == [b"aa", b"ab", b"aaab"]
    assert tokenizer.encode("aaab") == [258]


def test_words_are_cut_as_the_pattern_says():
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), "isolated")
    pieces = [piece for piece, _ in split.pre_tokenize_str("I'll pay $1234,  ok?!\n\n  Yes\n")]
    assert pieces == [
        "I",
        "'ll",
        " pay",
        " $",
        "12",
        "34",
        ",",
        " ",
        " ok",
        "?!\n\n",
        " ",
        " Yes",
        "\n",
    ]


# --- ids and bytes ---


def test_specials_are_the_last_nine_ids_in_order(tokenizer):
    assert tokenizer.vocab_size == 400
    assert [tokenizer.special(name) for name in SPECIALS] == list(range(391, 400))


def test_training_is_deterministic(tokenizer):
    again = Tokenizer.train(iter(CORPUS * 3), 400)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert again.ranks == tokenizer.ranks
    assert Tokenizer.train(CORPUS, 390).fingerprint() != tokenizer.fingerprint()


def test_saved_and_loaded_is_the_same_tokenizer(tokenizer, saved):
    loaded = Tokenizer.load(saved, vocab_size=400)
    assert loaded.ranks == tokenizer.ranks
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert sorted(p.name for p in saved.iterdir()) == [FILE_NAME]


@pytest.mark.parametrize("name", HOSTILE)
def test_hugging_face_gives_identical_ids_for_hostile_text(name, tokenizer, hugging_face):
    text = HOSTILE[name]
    assert hugging_face.encode(text).ids == tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=120, deadline=None)
@given(st.text(max_size=80) | st.text(alphabet=" \n\r\t'sSlLaé1!\u0301\u200d🙂", max_size=40))
def test_hugging_face_gives_identical_ids_for_any_text(tokenizer, hugging_face, text):
    ids = tokenizer.encode(text)
    assert hugging_face.encode(text).ids == ids
    assert hugging_face.decode(ids, skip_special_tokens=False) == text


def test_every_kind_of_character_is_split_alike_by_both_engines(tokenizer, hugging_face):
    rng = random.Random(0)
    by_category: dict[str, list[str]] = {}
    for code in range(sys.maxunicode + 1):
        by_category.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    del by_category["Cs"]  # lone surrogates are no characters
    for characters in by_category.values():
        sample = rng.sample(characters, min(150, len(characters)))
        text = "".join(f"a{c}a {c} 1{c}\n" for c in sample)
        assert hugging_face.encode(text).ids == tokenizer.encode(text)


@pytest.mark.slow
def test_every_character_of_unicode_is_split_alike_by_both_engines(tokenizer, hugging_face):
    """Planes 0 to 3 and 14, which hold every character; the others are empty or private."""
    codes = [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000)]
    characters = [chr(code) for code in codes]
    for start in range(0, len(characters), 4_000):
        text = "".join(f"a{c}a {c} 1{c}\n" for c in characters[start : start + 4_000])
        assert hugging_face.encode(text).ids == tokenizer.encode(text)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(
        st.sampled_from([special_text(name) for name in SPECIALS] + ["<|", "|>", "bos", " ", "é"])
        | st.text(max_size=10),
        max_size=8,
    )
)
def test_text_can_never_produce_a_special(tokenizer, parts):
    text = "".join(parts)
    smallest_special = tokenizer.vocab_size - len(SPECIALS)
    assert all(i < smallest_special for i in tokenizer.encode(text))
    conversation = dialogue(text, text)
    ids, _ = tokenizer.render_conversation(dialogue("x" + text, "y" + text), 10_000)
    assert [i for i in ids if i >= smallest_special] == [
        tokenizer.special(name)
        for name in ("bos", "user_start", "user_end", "assistant_start", "assistant_end")
    ]
    prompt = tokenizer.render_for_completion(conversation)
    assert sum(i >= smallest_special for i in prompt) == 4


def test_a_lone_surrogate_becomes_the_replacement_character(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    Tokenizer.train(["\ud800 lone \udfff"] * 2, 270)  # and is no reason to stop training


def test_a_vast_run_of_blanks_is_encoded_without_a_crash(tokenizer):
    text = " " * 600_000 + "x"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_batch([text, "a"]) == [tokenizer.encode(text), tokenizer.encode("a")]


def test_a_batch_equals_one_by_one(tokenizer):
    texts = list(HOSTILE.values())
    assert tokenizer.encode_batch(texts, threads=2) == [tokenizer.encode(t) for t in texts]


def test_token_bytes_add_up_to_the_bytes_of_the_text(tokenizer):
    lengths = tokenizer.token_bytes()
    text = "".join(HOSTILE.values())
    assert sum(lengths[i] for i in tokenizer.encode(text)) == len(text.encode())
    assert len(lengths) == 400 and lengths[-9:] == [0] * 9


def test_half_a_character_decodes_to_bytes_and_to_a_mark(tokenizer):
    assert tokenizer.decode_bytes([0xC3]) == b"\xc3"
    assert tokenizer.decode([0xC3]) == "\ufffd"


# --- conversations ---


def dialogue(*turns):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": t} for i, t in enumerate(turns)]}


def names_and_mask(tokenizer, ids, mask):
    """Ids as readable text with the mask, for comparing with a mask drawn by hand."""
    return [(tokenizer.decode([i]), m) for i, m in zip(ids, mask, strict=True)]


def test_the_mask_covers_what_the_assistant_writes_and_nothing_else():
    bytes_only = Tokenizer.train(["ab"], 256 + len(SPECIALS))
    call = [
        {"type": "text", "text": "s"},
        {"type": "python", "text": "1"},
        {"type": "python_output", "text": "2"},
        {"type": "text", "text": "t"},
    ]
    ids, mask = bytes_only.render_conversation(dialogue("u", call, "v", "w"), 100)
    assert names_and_mask(bytes_only, ids, mask) == [
        ("<|bos|>", 0),
        ("<|user_start|>", 0),
        ("u", 0),
        ("<|user_end|>", 0),
        ("<|assistant_start|>", 0),
        ("s", 1),
        ("<|python_start|>", 1),
        ("1", 1),
        ("<|python_end|>", 1),
        ("<|output_start|>", 0),
        ("2", 0),
        ("<|output_end|>", 0),
        ("t", 1),
        ("<|assistant_end|>", 1),
        ("<|user_start|>", 0),
        ("v", 0),
        ("<|user_end|>", 0),
        ("<|assistant_start|>", 0),
        ("w", 1),
        ("<|assistant_end|>", 1),
    ]


def test_a_system_message_is_merged_into_the_first_user_message(tokenizer):
    system = {"role": "system", "content": "Be kind."}
    merged = {"messages": [system, *dialogue("Hi", "Hello")["messages"]]}
    plain = dialogue("Be kind.\n\nHi", "Hello")
    assert tokenizer.render_conversation(merged) == tokenizer.render_conversation(plain)


def test_the_prompt_is_the_conversation_up_to_the_last_answer(tokenizer):
    conversation = dialogue("Hi", "Hello", "Where is Anna?", "In the garden.")
    prompt = tokenizer.render_for_completion(conversation)
    ids, _ = tokenizer.render_conversation(conversation)
    assert ids[: len(prompt)] == prompt
    assert prompt[-1] == tokenizer.special("assistant_start")
    assert prompt == tokenizer.render_for_completion(dialogue("Hi", "Hello", "Where is Anna?"))
    assert len(conversation["messages"]) == 4  # the caller's conversation is left alone


@given(limit=st.integers(0, 60))
def test_a_cut_row_either_teaches_something_or_is_reported(tokenizer, limit):
    conversation = dialogue("Where is the ball?", "In the garden.", "Why?", "Anna put it there.")
    full_ids, full_mask = tokenizer.render_conversation(conversation, 10_000)
    if 1 in full_mask[:limit]:
        assert tokenizer.render_conversation(conversation, limit) == (
            full_ids[:limit],
            full_mask[:limit],
        )
    else:
        with pytest.raises(NothingToLearn, match=f"the limit is {limit}"):
            tokenizer.render_conversation(conversation, limit)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (dialogue("a", "b")["messages"], "a conversation is"),
        ({"messages": []}, "no messages"),
        ({"messages": [{"role": "user"}]}, "no 'role' and 'content'"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "message 0 is from 'assistant'"),
        ({"messages": dialogue("a")["messages"] * 2}, "message 1 is from 'user'"),
        ({"messages": [{"role": "system", "content": "a"}]}, "followed by a user"),
        (dialogue([{"type": "python", "text": "1"}], "b"), "only an assistant"),
        (dialogue("a", [{"type": "image", "text": "1"}]), "a part is"),
        (dialogue("a", 7), "content is text or a list"),
        (dialogue("a"), "no words of an assistant"),
    ],
)
def test_a_broken_conversation_is_refused_with_its_reason(tokenizer, broken, words):
    with pytest.raises(BadConversation, match=words):
        tokenizer.render_conversation(broken, 100)


def test_there_must_be_something_to_answer(tokenizer):
    alone: Conversation = {"messages": [{"role": "assistant", "content": "a"}]}
    empty: Conversation = {"messages": []}
    for nothing in (empty, alone):
        with pytest.raises(BadConversation, match="ends with a user message"):
            tokenizer.render_for_completion(nothing)


# --- mistakes of the user ---


def test_a_missing_tokenizer_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(TokenizerMissing, match="nanochat tok-train"):
        Tokenizer.load(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["cut", "list", "empty", "gap", "byte", "special", "merge"])
def test_a_damaged_file_is_refused(tokenizer, saved, tmp_path, damage):
    text = (saved / FILE_NAME).read_text(encoding="utf-8")
    content = json.loads(text)
    vocab = content["model"]["vocab"]
    if damage == "gap":
        vocab[next(w for w, i in vocab.items() if i == 300)] = 999
    elif damage == "byte":
        vocab["ABCDEFG"] = vocab.pop("A")
    elif damage == "special":
        content["added_tokens"].pop()
    elif damage == "merge":
        content["model"]["merges"].pop()
    shown = {"cut": text[: len(text) // 2], "list": "[]", "empty": ""}
    (tmp_path / FILE_NAME).write_text(shown.get(damage, json.dumps(content)), encoding="utf-8")
    with pytest.raises(TokenizerCorrupt, match="nanochat tok-train"):
        Tokenizer.load(tmp_path)


def test_another_vocabulary_size_than_the_models_is_refused(saved):
    with pytest.raises(VocabularyMismatch, match="has 400 tokens, 512 are needed"):
        Tokenizer.load(saved, vocab_size=512)


def test_an_id_outside_the_vocabulary_is_refused(tokenizer):
    with pytest.raises(VocabularyMismatch, match="token id 400"):
        tokenizer.decode([65, 400])


def test_a_corpus_too_small_to_learn_from_is_refused():
    with pytest.raises(CorpusTooSmall, match="empty"):
        Tokenizer.train(["", ""], 300)
    with pytest.raises(CorpusTooSmall, match="only 266 tokens can be learned from 2 characters"):
        Tokenizer.train(["ab"], 300)
    with pytest.raises(VocabularyMismatch, match="265 or more"):
        Tokenizer.train(CORPUS, 100)
