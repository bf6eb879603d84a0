"""Learn the vocabulary: the pieces of text that the model will read and write."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from nanochat.cli import parse, print_json, run
from nanochat.compression import bytes_per_token
from nanochat.dataset import EmptyCorpus, limited, open_documents
from nanochat.paths import tokenizer_dir
from nanochat.report import record
from nanochat.tokenizer import Tokenizer

VAL_DOCUMENTS = 1000


@dataclass(frozen=True)
class Settings:
    data: str = "tinyworld"
    """tinyworld, climbmix, fineweb-edu, or the path of a file or folder of text."""
    vocab_size: int = 2048
    """Tokens, with the 256 bytes and 9 specials; 2048 suits TinyWorld, 32768 web text."""
    max_chars: int = 2_000_000_000
    """Characters to learn from, at most."""
    doc_cap: int = 10_000
    """Characters of one document to learn from, at most: no document may outweigh the others."""
    json: bool = False
    """Print what was learned as JSON on the last line."""


def main(argv: Sequence[str] | None = None) -> int | None:
    settings = parse(Settings, argv, "nanochat tok-train", __doc__)
    started = time.perf_counter()
    texts = limited(open_documents(settings.data, "train"), settings.max_chars, settings.doc_cap)
    tokenizer = Tokenizer.train(texts, settings.vocab_size)
    seconds = time.perf_counter() - started
    path = tokenizer.save(tokenizer_dir())
    unseen = held_out_bytes_per_token(settings.data, tokenizer)
    longest = longest_tokens(tokenizer, 8)
    print(f"{tokenizer.vocab_size} tokens learned in {seconds:.1f} s -> {path}")
    print("longest:", "  ".join(map(repr, longest)))
    if unseen is not None:
        print(f"bytes per token on unseen text: {unseen:.2f}")
    facts = {
        "data": settings.data,
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint(),
        "seconds": round(seconds, 3),
        "val_bytes_per_token": unseen,
        "longest": longest,
    }
    record("tokenizer", facts)
    if settings.json:
        print_json(facts)
    return None


def held_out_bytes_per_token(data: str, tokenizer: Tokenizer) -> float | None:
    """On the validation split; None where the corpus is too small to hold anything out."""
    try:
        texts = list(islice(open_documents(data, "val"), VAL_DOCUMENTS))
    except EmptyCorpus:
        return None
    return bytes_per_token(texts, lambda text: len(tokenizer.encode(text))) if texts else None


def longest_tokens(tokenizer: Tokenizer, count: int) -> list[str]:
    by_length = sorted(tokenizer.ranks, key=lambda token: (-len(token), token))
    return [token.decode("utf-8", errors="replace") for token in by_length[:count]]


if __name__ == "__main__":
    run(main)
