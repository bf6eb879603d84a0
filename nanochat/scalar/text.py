"""Lines of a file become documents, documents become tokens, some documents are held out.

Read: read_documents -> CharTokenizer -> windows -> Corpus -> open_corpus.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat.scalar.errors import ScalarError
from nanochat.scalar.streams import Streams

NAMES = Path(__file__).parent / "data" / "census_names.txt"  # 5,163 first names, one a line
Style = Literal["classic", "futuristic"]
# The futuristic style: these join the documents to learn from, never the held-out ones.
FUTURISTIC = NAMES.with_name("futuristic_names.txt")


class BadText(ScalarError):
    """The data or the prompt can't be used."""


def read_documents(path: Path) -> list[str]:
    """One document a line, without blank lines."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadText(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadText(f"{path} is not UTF-8 text (byte {error.start}): convert it") from None
    documents = [line.strip() for line in text.splitlines() if line.strip()]
    if not documents:
        raise BadText(f"{path} has no text: give one document a line")
    if sum(map(len, documents)) < 2:
        raise BadText(
            f"{path} has one character only: there is nothing to predict, give two or more"
        )
    return documents


# @viz:guide.tokens
class CharTokenizer:
    """A token for every character, sorted; BOS marks where a document begins and ends.

    >>> CharTokenizer("aev").encode("eve")
    [0, 2, 3, 2, 0]
    >>> CharTokenizer("aev", bos_last=True).encode("eve")
    [3, 1, 2, 1, 3]
    """

    def __init__(self, characters: Iterable[str], bos_last: bool = False) -> None:
        self.characters = "".join(sorted(set(characters)))
        self.bos_last = bos_last
        self.bos = len(self.characters) if bos_last else 0
        first = 0 if bos_last else 1
        self._ids = {c: i for i, c in enumerate(self.characters, first)}
        self._characters = {i: c for c, i in self._ids.items()}

    def __len__(self) -> int:
        return len(self.characters) + 1

    def ids(self, text: str) -> list[int]:
        """Tokens of a text, without BOS."""
        strange = sorted({c for c in text if c not in self._ids})
        if strange:
            raise BadText(
                f"{''.join(strange)!r} was not in the training text: use {self.characters!r}"
            )
        return [self._ids[c] for c in text]

    def encode(self, document: str) -> list[int]:
        return [self.bos, *self.ids(document), self.bos]

    def decode(self, tokens: Iterable[int]) -> str:
        """Text again; BOS is left out."""
        return "".join(self._characters[t] for t in tokens if t != self.bos)

    def bytes_of(self, tokens: Iterable[int]) -> int:
        """How many UTF-8 bytes the tokens stand for; BOS stands for the end of the line."""
        return sum(len(self._characters.get(t, "\n").encode()) for t in tokens)


def windows(tokens: Sequence[int], context: int) -> list[list[int]]:
    """A long document in pieces of context + 1 tokens; the last of one begins the next.

    >>> windows([0, 1, 2, 3, 4, 0], 2)
    [[0, 1, 2], [2, 3, 4], [4, 0]]
    """
    starts = range(0, len(tokens) - 1, context)
    return [list(tokens[start : start + context + 1]) for start in starts]


@dataclass(frozen=True)
class Corpus:
    """What a run learns from and is judged by; documents are windows of tokens."""

    tokenizer: CharTokenizer
    train: list[list[int]]
    held_out: list[list[int]]
    fingerprint: str  # of all documents and of how they were divided

    def longest(self) -> int:
        """The most tokens that are predicted in one document."""
        return max(len(document) - 1 for document in self.train + self.held_out)


def open_corpus(
    path: Path, streams: Streams, context: int, held_out: float, style: Style, parity: bool
) -> Corpus:
    """Documents shuffled, the last `held_out` of them kept apart (none with parity, or if alone).

    With parity, BOS is the last token and only the first window of a document is used.
    """
    documents = read_documents(path)
    streams["split"].shuffle(documents)
    n_out = 0 if parity or len(documents) < 2 else round(held_out * len(documents))
    if held_out and not parity and len(documents) > 1:
        n_out = min(max(n_out, 1), len(documents) - 1)
    learn, out = documents[: len(documents) - n_out], documents[len(documents) - n_out :]
    if style == "futuristic":
        learn += read_documents(FUTURISTIC)
    tokenizer = CharTokenizer("".join(learn + out), bos_last=parity)
    digest = hashlib.sha256("\n".join([*learn, "", *out]).encode()).hexdigest()

    def cut(texts: list[str]) -> list[list[int]]:
        pieces = (windows(tokenizer.encode(text), context) for text in texts)
        return [window for piece in pieces for window in (piece[:1] if parity else piece)]

    return Corpus(tokenizer, cut(learn), cut(out), digest)
