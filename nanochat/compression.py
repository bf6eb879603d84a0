"""How many bytes of text one token holds: our tokenizer, and three that anyone can have offline.

The more bytes a token holds, the more text fits into the model's context and the fewer steps a
sentence takes. Compare: raw bytes (always 1), characters, and a BPE of the same size that learned
from the source of Python's standard library: what a vocabulary is worth depends on what it read.
Called by tok_eval and tok_train. Read: sample_texts -> encoders -> compare.
"""

import json
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from nanochat.dataset import DataMissing, limited, open_documents
from nanochat.errors import UserError
from nanochat.tokenizer import Tokenizer

HERE = Path(__file__).resolve().parent
LIBRARY_CHARACTERS = 6_000_000
TINYWORLD_DOCUMENTS = 200

# bytes per token: {kind of text: {tokenizer: figure}}
Comparison = dict[str, dict[str, float]]


class NotReversible(UserError):
    """A tokenizer gave back another text than it was given."""


def sample_texts() -> dict[str, list[str]]:
    """Kind -> texts. TinyWorld, which must be made first, is left out where it is not there."""
    texts = {}
    try:
        documents = open_documents("tinyworld", "val")
        texts["TinyWorld"] = list(islice(documents, TINYWORLD_DOCUMENTS))
    except DataMissing:
        pass  # the caller sees that the key is missing
    written = json.loads((HERE / "sample_texts.json").read_text(encoding="utf-8"))
    texts["news"] = [written.pop("news")]
    texts["code"] = [path.read_text(encoding="utf-8") for path in sorted(HERE.glob("*.py"))]
    return texts | {kind: [text] for kind, text in written.items()}


def library_texts() -> Iterator[str]:
    """The source of Python's own library, without its tests, in a fixed order."""
    for folder, folders, files in os.walk(sysconfig.get_paths()["stdlib"]):
        folders[:] = sorted(set(folders) - {"test", "tests", "idle_test", "site-packages"})
        for name in sorted(files):
            if name.endswith(".py"):
                yield Path(folder, name).read_text(encoding="utf-8", errors="replace")


def encoders(tokenizer: Tokenizer) -> dict[str, Callable[[str], int]]:
    """Name -> the number of tokens it makes of a text."""
    texts = limited(library_texts(), LIBRARY_CHARACTERS, LIBRARY_CHARACTERS)
    library = Tokenizer.train(texts, tokenizer.vocab_size)
    return {
        "this tokenizer": lambda text: len(tokenizer.encode(text)),
        "BPE of Python's library": lambda text: len(library.encode(text)),
        "characters": len,
        "raw bytes": lambda text: len(text.encode()),
    }


# @learn:tokenization.vocabulary_size
def bytes_per_token(texts: Iterable[str], count: Callable[[str], int]) -> float:
    """
    >>> bytes_per_token(["né"], len)
    1.5
    """
    texts = list(texts)
    return sum(len(text.encode()) for text in texts) / sum(map(count, texts))


def compare(tokenizer: Tokenizer, texts: dict[str, list[str]]) -> Comparison:
    """The whole table. Raises NotReversible if `tokenizer` loses a byte of any text."""
    for kind, those in texts.items():
        if any(tokenizer.decode(tokenizer.encode(text)) != text for text in those):
            raise NotReversible(f"encoding and decoding the {kind} text does not give it back")
    counters = encoders(tokenizer)
    return {
        kind: {name: bytes_per_token(those, count) for name, count in counters.items()}
        for kind, those in texts.items()
    }
