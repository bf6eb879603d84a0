"""Documents -> batches of token ids, packed without padding, resumable to the bit.

    loader = PackedLoader(open_documents("tinyworld"), tokenizer, batch_size=4, sequence_len=512)
    inputs, targets = next(loader)      # int64 (B, T) each; targets are inputs one step later
    saved = loader.state_dict()         # JSON-able; PackedLoader(..., state=saved) goes on exactly

A row is T + 1 tokens: whole documents, each behind a <|bos|>, the largest that fits first, and
where none fits the shortest is cut to fill the row exactly. What was cut off is dropped unless
`keep_tails`. Called by pretrain.py and loss_eval.py.
Read: Packer -> PackedLoader._batches -> state_dict. B batch, T time.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import torch

from nanochat.dataset import Documents, Position
from nanochat.errors import UserError
from nanochat.tokenizer import Tokenizer

STATE_VERSION = 1
READ_AHEAD = 64  # documents tokenized in one go

Item = TypeVar("Item")
Batch = tuple[torch.Tensor, torch.Tensor]


class StateMismatch(UserError):
    """A saved data position belongs to other data, another tokenizer or other ranks."""


# @learn:data.packing
class Packer:
    """A buffer of documents sorted by length, from which rows are filled.

    Entries are (length, -arrival, tokens): of two of one length the older comes last, so a look
    from the right finds it first.
    """

    def __init__(self, documents: Iterable[list[int]] = ()):
        self.entries: list[tuple[int, int, list[int]]] = []
        self.arrivals = 0
        for tokens in documents:
            self.add(tokens)

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, tokens: list[int]) -> None:
        insort(self.entries, (len(tokens), -self.arrivals, tokens))
        self.arrivals += 1

    def take_largest_within(self, space: int) -> list[int] | None:
        """Remove and return the largest document of at most `space` tokens, if there is one.

        >>> packer = Packer([[1], [2, 2, 2], [3, 3]])
        >>> packer.take_largest_within(2), packer.take_largest_within(2), len(packer)
        ([3, 3], [1], 1)
        """
        end = bisect_left(self.entries, (space, 1))  # -arrival < 1: all of length <= space
        return self.entries.pop(end - 1)[2] if end else None

    def take_shortest(self) -> list[int]:
        """Remove and return the shortest document, the oldest of them."""
        end = bisect_left(self.entries, (self.entries[0][0], 1))
        return self.entries.pop(end - 1)[2]

    def in_order_of_arrival(self) -> list[list[int]]:
        return arrival_order(self.entries)


def arrival_order(entries: list[tuple[int, int, list[int]]]) -> list[list[int]]:
    return [tokens for _, _, tokens in sorted(entries, key=lambda entry: -entry[1])]


# @learn:data.exact_resume
class Snapshot(NamedTuple):
    """Where the loader stands after a batch; cheap to take, since token lists never change."""

    batches: int
    position: Position | None  # of the next document that is not yet in the buffer
    entries: list[tuple[int, int, list[int]]]


class PackedLoader:
    """An endless iterator of (inputs, targets).

    `buffer_documents`: among how many the packer chooses; 1 keeps the order of documents exactly,
    more wastes fewer tokens. `prefetch` makes the next batch in a thread while this one is used.
    `threads` tokenize. `state` is an earlier state_dict().
    """

    def __init__(
        self,
        documents: Documents,
        tokenizer: Tokenizer,
        batch_size: int,
        sequence_len: int,
        rank: int = 0,
        world_size: int = 1,
        buffer_documents: int = 256,
        state: dict[str, Any] | None = None,
        prefetch: bool = False,
        keep_tails: bool = False,
        threads: int = 1,
    ):
        assert batch_size > 0 and sequence_len > 0 and buffer_documents > 0
        self.documents, self.tokenizer = documents, tokenizer
        self.batch_size, self.sequence_len = batch_size, sequence_len
        self.rank, self.world_size = rank, world_size
        self.buffer_documents, self.keep_tails, self.threads = buffer_documents, keep_tails, threads
        self.belongs_to = {
            "version": STATE_VERSION,
            "documents": documents.fingerprint(),
            "tokenizer": tokenizer.fingerprint(),
            "rank": rank,
            "world_size": world_size,
        }
        self.snapshot = self._restored(state) if state else Snapshot(0, None, [])
        batches = self._batches(self.snapshot)
        self.upcoming = one_ahead(batches) if prefetch else batches

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch, self.snapshot = next(self.upcoming)
        return batch

    @property
    def epoch(self) -> int:
        """Passes over the documents that were finished before the newest document was read."""
        return self.snapshot.position[0] if self.snapshot.position else 0

    # @learn:data.exact_resume
    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on after the last batch that was handed out. JSON-able."""
        position = self.snapshot.position
        return {
            **self.belongs_to,
            "batches": self.snapshot.batches,
            "position": list(position) if position else None,
            "buffer": arrival_order(self.snapshot.entries),
        }

    def _restored(self, state: dict[str, Any]) -> Snapshot:
        wrong = [key for key, value in self.belongs_to.items() if state.get(key) != value]
        if wrong:
            raise StateMismatch(
                f"the saved data position does not fit, its {' and '.join(wrong)} differ: resume "
                "with the same data, tokenizer and number of processes, or start a new run"
            )
        epoch, block, row = state["position"] or (0, 0, 0)
        position = (epoch, block, row) if state["position"] else None
        return Snapshot(state["batches"], position, Packer(state["buffer"]).entries)

    # @learn:foundations.tensors
    def _batches(self, start: Snapshot) -> Iterator[tuple[Batch, Snapshot]]:
        packer = Packer(arrival_order(start.entries))
        position = start.position
        tokenized = self._tokenized(start.position)
        number = start.batches
        while True:
            rows = []
            for _ in range(self.batch_size):
                row: list[int] = []
                while len(row) <= self.sequence_len:  # a row is one longer than T
                    while len(packer) < self.buffer_documents:
                        position, tokens = next(tokenized)
                        packer.add(tokens)
                    row += self._next_piece(packer, self.sequence_len + 1 - len(row))
                rows.append(row)
            number += 1
            block = torch.tensor(rows, dtype=torch.int64)  # (B, T + 1)
            batch = block[:, :-1].contiguous(), block[:, 1:].contiguous()  # (B, T) each
            yield batch, Snapshot(number, position, list(packer.entries))

    def _next_piece(self, packer: Packer, space: int) -> list[int]:
        """The largest document that fits into `space` tokens, else the shortest, cut to fill it."""
        whole = packer.take_largest_within(space)
        if whole is not None:
            return whole
        shortest = packer.take_shortest()
        if self.keep_tails:
            packer.add([self.tokenizer.special("bos"), *shortest[space:]])
        return shortest[:space]

    def _tokenized(self, start: Position | None) -> Iterator[tuple[Position, list[int]]]:
        """(position after it, ids behind a bos) of every document of this rank, for ever."""
        stream = self.documents.stream(self.rank, self.world_size, start)
        bos = self.tokenizer.special("bos")
        pending: deque[tuple[Position, str]] = deque()
        while True:
            pending.extend(next(stream) for _ in range(READ_AHEAD))
            texts = [text for _, text in pending]
            for ids in self._encoded(texts):
                yield pending.popleft()[0], [bos, *ids]

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        if self.threads == 1:
            return [self.tokenizer.encode(text) for text in texts]
        return self.tokenizer.encode_batch(texts, self.threads)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, the next one made in a thread while the caller uses this one.

    An error in the thread is raised where its item would have come.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="next-batch") as pool:
        coming = pool.submit(next, items)
        while True:
            item = coming.result()
            coming = pool.submit(next, items)
            yield item
