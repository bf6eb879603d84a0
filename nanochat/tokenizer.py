"""Text <-> token ids. A byte-level BPE: any text becomes ids, and the ids give back every byte.

Trained by rustbpe, run by tiktoken, kept as one tokenizer.json that Hugging Face `tokenizers`
loads with identical ids. Ids 0..255 are the single bytes (so nothing is ever unknown), then the
merges in the order they were learned, then nine specials (chat_format.py). Text from a user can
never produce a special: only `special(name)` and the two render functions can.

Called by dataloader.py (documents), sft.py and rl.py (conversations), engine.py (prompts).
Read: SPLIT_PATTERN -> Tokenizer.train -> encode -> render_conversation.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import rustbpe
import tiktoken

from nanochat.atomic import write_atomically
from nanochat.chat_format import (
    SPECIALS,
    Conversation,
    NothingToLearn,
    Segment,
    prompt_of,
    segments,
    special_text,
)
from nanochat.errors import UserError
from nanochat.tokenizer_json import vocabulary_from_json, vocabulary_to_json

FILE_NAME = "tokenizer.json"

# @learn:tokenization.pretokenization
# Text is first cut into words, and no token spans two of them. One pattern for the three engines
# that read it (rustbpe, tiktoken, Hugging Face), so no inline flags and no possessive quantifiers:
# the neighbouring classes are disjoint, hence backtracking can't change a match.
SPLIT_PATTERN = "|".join(
    (
        r"'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])",  # 's 'd 'm 't 'll 've 're
        r"[^\r\n\p{L}\p{N}]?\p{L}+",  # a word, with one space or mark before it
        r"\p{N}{1,2}",  # digits by at most two: numbers are spelled alike everywhere
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # punctuation, emoji, with the line break after it
        r"\s*[\r\n]",  # blank up to the line break
        r"\s+(?!\S)",  # blank, but for the one that belongs to the next word
        r"\s+",
    )
)
# tiktoken's regex engine dies ("StackOverflow") on about half a million blanks in a row.
LONG_BLANK = re.compile(r"\s{100000}")


class TokenizerMissing(UserError):
    """There is no tokenizer.json where one was expected."""


class TokenizerCorrupt(UserError):
    """tokenizer.json is not JSON, or not the JSON that we write."""


class VocabularyMismatch(UserError):
    """The vocabulary has another size than the model, or an id lies outside it."""


class CorpusTooSmall(UserError):
    """There is too little text to learn a vocabulary of the size asked for."""


# @def:token
# A piece of text the model reads or writes as one; its id is a row of the embedding table.
class Tokenizer:
    """`ranks`: bytes -> id for every token but the specials, ids 0, 1, 2, ..."""

    # @learn:tokenization.tiktoken_and_rustbpe
    def __init__(self, ranks: dict[bytes, int], pattern: str = SPLIT_PATTERN):
        self.ranks = ranks
        self.pattern = pattern
        self.special_ids = {name: len(ranks) + i for i, name in enumerate(SPECIALS)}
        self.encoding = tiktoken.Encoding(
            name="nanochat",
            pat_str=pattern,
            mergeable_ranks=ranks,
            special_tokens={special_text(name): i for name, i in self.special_ids.items()},
        )

    # --- making, keeping ---

    # @learn:tokenization.vocabulary_size
    # @learn:tokenization.bpe
    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn merges from `texts`, read once. `vocab_size` counts bytes, merges and specials.

        Raises CorpusTooSmall when there is no text, or too few distinct pairs in it.
        """
        smallest = 256 + len(SPECIALS)
        if vocab_size < smallest:
            raise VocabularyMismatch(
                f"a vocabulary of {vocab_size} is too small: 256 bytes and {len(SPECIALS)} "
                f"specials are always in it, so give --vocab-size {smallest} or more"
            )
        corpus = CountedTexts(texts)
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(
            corpus.pieces(), vocab_size - len(SPECIALS), pattern=SPLIT_PATTERN
        )
        if not corpus.characters:
            raise CorpusTooSmall("the training corpus is empty: it holds no text to learn from")
        ranks = dict(trainer.get_mergeable_ranks())
        if len(ranks) + len(SPECIALS) < vocab_size:
            raise CorpusTooSmall(
                f"only {len(ranks) + len(SPECIALS)} tokens can be learned from "
                f"{corpus.characters:,} characters, {vocab_size} were asked for: "
                "give more text or a smaller --vocab-size"
            )
        return cls(ranks)

    def save(self, directory: Path | str) -> Path:
        """Write tokenizer.json; a reader sees the old file or the new one, never half of one."""
        path = Path(directory) / FILE_NAME
        content = vocabulary_to_json(self.ranks, self.pattern)
        write_atomically(path, json.dumps(content, ensure_ascii=False))
        return path

    @classmethod
    def load(cls, directory: Path | str, vocab_size: int | None = None) -> "Tokenizer":
        """Read `directory`/tokenizer.json; with `vocab_size`, insist on that many ids."""
        path = Path(directory) / FILE_NAME
        try:
            ranks, pattern = vocabulary_from_json(json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            raise TokenizerMissing(
                f"no tokenizer at {path}: make one with `nanochat tok-train`"
            ) from None
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise TokenizerCorrupt(
                f"{path} is not a tokenizer of ours ({type(error).__name__}: {error}): "
                "delete it and make it again with `nanochat tok-train`"
            ) from error
        tokenizer = cls(ranks, pattern)
        if vocab_size is not None and tokenizer.vocab_size != vocab_size:
            raise VocabularyMismatch(
                f"{path} has {tokenizer.vocab_size} tokens, {vocab_size} are needed: use the "
                "tokenizer that the model was trained with, or train the model again"
            )
        return tokenizer

    def fingerprint(self) -> str:
        """Equal for two tokenizers exactly when they give equal ids: a hash of the vocabulary."""
        digest = hashlib.sha256(self.pattern.encode())
        for token in sorted(self.ranks, key=self.ranks.__getitem__):
            digest.update(len(token).to_bytes(4, "little") + token)
        return digest.hexdigest()

    # --- text <-> ids ---

    @property
    def vocab_size(self) -> int:
        return len(self.ranks) + len(SPECIALS)

    # @learn:tokenization.special_tokens
    def special(self, name: str) -> int:
        """The id of a special: special("bos")."""
        return self.special_ids[name]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; "<|bos|>" in it is seven characters, never the special.

        A lone surrogate, which is no character, becomes U+FFFD.
        """
        if len(text) < 100_000:
            return self.encoding.encode_ordinary(text)
        return [i for piece in short_blanks(text) for i in self.encoding.encode_ordinary(piece)]

    def encode_batch(self, texts: list[str], threads: int | None = None) -> list[list[int]]:
        """encode() of each text, on all cores unless `threads` says otherwise."""
        if any(len(text) >= 100_000 for text in texts):
            return [self.encode(text) for text in texts]
        return self.encoding.encode_ordinary_batch(
            texts, num_threads=threads or os.cpu_count() or 1
        )

    # @learn:tokenization.unicode_and_bytes
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes; a special gives its name in ASCII."""
        ids = list(ids)
        wrong = next((i for i in ids if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise VocabularyMismatch(
                f"token id {wrong} is outside the vocabulary of {self.vocab_size}"
            )
        return self.encoding.decode_bytes(ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are no UTF-8, such as half a character, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def token_bytes(self) -> list[int]:
        """Bytes per id, 0 for specials: bits per byte divide by their sum over the targets."""
        return list(self._byte_lengths)

    @cached_property
    def _byte_lengths(self) -> list[int]:
        in_order = sorted(self.ranks, key=self.ranks.__getitem__)
        return [len(token) for token in in_order] + [0] * len(SPECIALS)

    # --- conversations ---

    # @learn:tokenization.loss_mask
    def render_conversation(
        self, conversation: Conversation, max_tokens: int = 2048
    ) -> tuple[list[int], list[int]]:
        """(ids, mask), at most `max_tokens` of each; mask 1 where the token is to be learned.

        Raises BadConversation, and NothingToLearn when no token of mask 1 is left after cutting:
        a row without one would make the mean of its loss 0/0. A caller with many conversations
        catches it, skips that one and counts.
        """
        ids, mask = self._ids_and_mask(segments(conversation))
        if 1 not in mask:
            raise NothingToLearn("the conversation holds no words of an assistant to learn")
        if 1 not in mask[:max_tokens]:
            raise NothingToLearn(
                f"the first answer begins at token {mask.index(1) + 1} of {len(ids)}, the limit is "
                f"{max_tokens}: shorten the prompt or raise the limit"
            )
        return ids[:max_tokens], mask[:max_tokens]

    def render_for_completion(self, conversation: Conversation) -> list[int]:
        """Ids of a prompt: a final assistant message dropped, assistant_start at the end."""
        ids, _ = self._ids_and_mask(segments(prompt_of(conversation)))
        return [*ids, self.special("assistant_start")]

    def _ids_and_mask(self, rendered: Iterable[Segment]) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        mask: list[int] = []
        for special, text, learn in rendered:
            new = [self.special(special)] if special else self.encode(text or "")
            ids += new
            mask += [learn] * len(new)
        return ids, mask


# @learn:tokenization.tiktoken_and_rustbpe
class CountedTexts:
    """Passes texts on to the trainer in a form it can read, and counts the characters."""

    def __init__(self, texts: Iterable[str]):
        self.texts = texts
        self.characters = 0

    def pieces(self) -> Iterator[str]:
        """The texts as the trainer takes them, counted on the way."""
        for text in self.texts:
            self.characters += len(text)
            # rustbpe takes UTF-8 only: join surrogate pairs, replace lone ones, as tiktoken does
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            yield from short_blanks(text)


def short_blanks(text: str) -> Iterator[str]:
    """The text cut after every 100,000 blanks in a row: a run that no real text has."""
    start = 0
    for run in LONG_BLANK.finditer(text):
        yield text[start : run.end()]
        start = run.end()
    yield text[start:]
