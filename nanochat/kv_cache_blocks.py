"""Blocks of keys and values that outlive their conversation, so that a known beginning is not read
again: the system prompt of every chat, the earlier turns of this one, an answer that was set aside.

Called by scheduler.py. Rows of kv_cache.py stay contiguous (a step reads them in place); a block is
a copy of BLOCK neighbouring positions, kept under the tokens that led to it.
Read: Block -> BlockStore.find -> restore -> save -> _place.
G key/value heads, D head size, S slots of a ring, L layers.
Not covered: secrecy between clients; whoever can time answers can guess that a prompt was seen.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch

from nanochat.gpt import GPTConfig
from nanochat.kv_cache import KVCache

BLOCK = 32  # positions in a block


class Block:
    """One place of the store: BLOCK tokens that follow those of `parent`."""

    def __init__(self, place: int, tokens: tuple[int, ...], parent: "Block | None") -> None:
        self.place, self.tokens, self.parent = place, tokens, parent
        self.children: dict[tuple[int, ...], Block] = {}
        self.holders = 0  # answers set aside that will want it back


# @learn:inference.prefix_cache
class BlockStore:
    """A tree of blocks: a path from the root is the beginning of some conversation.

    Tokens are compared, not hashes of them, so two beginnings can't be confused. When the store is
    full, the end of the path that was not used for longest makes room; held paths never do.
    """

    def __init__(
        self,
        config: GPTConfig,
        places: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (places, config.n_kv_head, BLOCK, config.head_size)
        layers = range(config.n_layer)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self.places = places
        self.reset()

    def reset(self) -> None:
        """Forget everything, held or not, whatever state an exception left behind."""
        self.free = list(range(self.places))
        self.first: dict[tuple[int, ...], Block] = {}  # blocks that begin a conversation
        self.idle: OrderedDict[Block, None] = OrderedDict()  # may go, in this order

    @property
    def kept(self) -> int:
        """Places in use."""
        return self.places - len(self.free)

    @property
    def held(self) -> int:
        """Places that must stay."""
        return sum(block.holders > 0 for block in self._all())

    def find(self, tokens: Sequence[int]) -> list[Block]:
        """The blocks of the longest known beginning; the last one counts as just used."""
        found: list[Block] = []
        level = self.first
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            block = level.get(tuple(tokens[start : start + BLOCK]))
            if block is None:
                break
            found.append(block)
            level = block.children
        if found and found[-1] in self.idle:
            self.idle.move_to_end(found[-1])
        return found

    def hold(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            block.holders += 1
            self.idle.pop(block, None)

    def release(self, blocks: Sequence[Block]) -> None:
        """Give blocks back; one that nobody holds may be overwritten."""
        for block in blocks:
            assert block.holders > 0, "released once for each hold"
            block.holders -= 1
            self._maybe_idle(block)

    # @learn:inference.prefix_cache
    def restore(self, blocks: Sequence[Block], cache: KVCache, row: int) -> None:
        """Fill a fresh row with a beginning; a ring takes only what its window still sees."""
        length = len(blocks) * BLOCK
        for layer, slots in enumerate(cache.slots):
            first = max(0, length - slots)
            places = [block.place for block in blocks[first // BLOCK :]]
            where = torch.arange(first, length, device=cache.last.device) % slots
            for rows, kept in (
                (cache.keys[layer][row], self.keys[layer]),
                (cache.values[layer][row], self.values[layer]),
            ):
                joined = kept[places].transpose(0, 1).flatten(1, 2)  # (G, blocks * BLOCK, D)
                rows[:, where] = joined[:, first % BLOCK :]
        cache.lengths[row] = length

    def save(self, tokens: Sequence[int], cache: KVCache, row: int) -> list[Block]:
        """Keep the whole blocks of a row that holds `tokens`; returns the path that is known now.

        Ends early where a ring has forgotten a block or every place is held.
        """
        assert len(tokens) <= cache.lengths[row], "the row has read these tokens"
        path = self.find(tokens)
        self.hold(path)  # making room must not eat the path it is made for
        oldest = max(0, cache.lengths[row] - min(cache.slots))  # every layer still has these
        known, places = len(path), []
        for start in range(known * BLOCK, len(tokens) - BLOCK + 1, BLOCK):
            place = self._place() if start >= oldest else None
            if place is None:
                break
            parent = path[-1] if path else None
            block = Block(place, tuple(tokens[start : start + BLOCK]), parent)
            (parent.children if parent else self.first)[block.tokens] = block
            block.holders = 1
            path.append(block)
            places.append(place)
        if places:
            self._copy(cache, row, known * BLOCK, places)
        self.release(path)
        return path

    def _copy(self, cache: KVCache, row: int, start: int, places: list[int]) -> None:
        """Fill neighbouring blocks with what a row holds from `start` on."""
        count = len(places) * BLOCK
        for layer, slots in enumerate(cache.slots):
            where = torch.arange(start, start + count, device=cache.last.device) % slots
            for held, kept in (
                (cache.keys[layer][row], self.keys[layer]),
                (cache.values[layer][row], self.values[layer]),
            ):
                blocks = held[:, where].unflatten(1, (len(places), BLOCK))  # (G, N, BLOCK, D)
                kept[places] = blocks.transpose(0, 1)

    def clear(self) -> None:
        """Forget all that nobody holds, for example after scores that were not numbers."""
        while self.idle:
            self.free.append(self._forget_oldest())

    def _place(self) -> int | None:
        """A free place, made free if need be; None when all are held."""
        if self.free:
            return self.free.pop()
        return self._forget_oldest() if self.idle else None

    def _forget_oldest(self) -> int:
        block, _ = self.idle.popitem(last=False)
        del (block.parent.children if block.parent else self.first)[block.tokens]
        if block.parent:
            self._maybe_idle(block.parent, oldest=True)  # it is no younger than its child
        return block.place

    def _maybe_idle(self, block: Block, oldest: bool = False) -> None:
        """Only the end of a path may go: what follows a forgotten block could never be found."""
        if not block.holders and not block.children:
            self.idle[block] = None
            self.idle.move_to_end(block, last=not oldest)

    def _all(self) -> list[Block]:
        found = list(self.first.values())
        for block in found:  # grows while it is walked
            found.extend(block.children.values())
        return found
