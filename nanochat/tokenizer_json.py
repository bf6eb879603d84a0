"""A byte-level BPE vocabulary as one JSON file that Hugging Face `tokenizers` loads too.

The file holds what both readers need: the split pattern, bytes -> id, the list of merges, and the
nine specials. JSON can't hold raw bytes, so GPT-2's table writes every byte as a visible character.
Called by tokenizer.py. Read: vocabulary_to_json -> merge_of -> vocabulary_from_json.

Hugging Face's own loader turns text that looks like a special ("<|bos|>") into that special unless
`encode_special_tokens = True` is set on it; ours never does.
"""

from functools import cache
from itertools import pairwise
from typing import Any

from nanochat.chat_format import SPECIALS, special_text


# @learn:tokenization.unicode_and_bytes
@cache
def byte_characters() -> list[str]:
    """Byte -> the visible character that stands for it (GPT-2's table).

    Printable Latin-1 stands for itself; the 68 others are moved to U+0100 and up, in order.

    >>> byte_characters()[ord("A")], byte_characters()[ord(" ")]
    ('A', 'Ġ')
    """
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(b) if b in visible else chr(256 + hidden.index(b)) for b in range(256)]


def visible(token: bytes) -> str:
    table = byte_characters()
    return "".join(table[byte] for byte in token)


# @learn:tokenization.bpe
def merge_of(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two shorter tokens that were merged into `token`: replay BPE with earlier merges only.

    >>> merge_of(b"abc", {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"abc": 4})
    (b'a', b'bc')
    """
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        first = min(range(len(pairs)), key=pairs.__getitem__)
        assert pairs[first] < ranks[token], f"{token!r} can't be reached by earlier merges"
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts[0], parts[1]


def vocabulary_to_json(ranks: dict[bytes, int], pattern: str) -> dict[str, Any]:
    """The content of tokenizer.json. `ranks`: bytes -> id for every token but the specials."""
    tokens = sorted(ranks, key=ranks.__getitem__)
    merges = [merge_of(token, ranks) for token in tokens if len(token) > 1]
    added = [
        {
            "id": len(ranks) + number,
            "content": special_text(name),
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, name in enumerate(SPECIALS)
    ]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {visible(token): ranks[token] for token in tokens},
            "merges": [[visible(a), visible(b)] for a, b in merges],
        },
    }


def vocabulary_from_json(content: dict[str, Any]) -> tuple[dict[bytes, int], str]:
    """The inverse: (ranks, pattern). Raises KeyError, TypeError or ValueError on anything else."""
    bytes_of = {character: byte for byte, character in enumerate(byte_characters())}
    ranks = {
        bytes(bytes_of[character] for character in word): int(number)
        for word, number in content["model"]["vocab"].items()
    }
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"the ids of its {len(ranks)} tokens are not 0, 1, 2, ...")
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError("one of the 256 single bytes is missing")
    if len(content["model"]["merges"]) != len(ranks) - 256:
        raise ValueError("the number of merges does not fit the vocabulary")
    found = [(added["content"], added["id"]) for added in content["added_tokens"]]
    if found != [(special_text(name), len(ranks) + i) for i, name in enumerate(SPECIALS)]:
        raise ValueError(f"its special tokens are not {', '.join(SPECIALS)} as the last ids")
    return ranks, str(content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"])
