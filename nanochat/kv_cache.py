"""Remember the keys and values of earlier tokens, so that a new token costs one step, not T.

Called by engine.py, which owns the rows; gpt.py asks it for positions and past keys.
Read: KVCache (the memory) -> CacheView (what one forward pass sees of it).
Each row of the batch has its own length, so conversations of different lengths decode together.
B rows, T new tokens, S slots, G key/value heads, D head size, L layers, C channels.

A layer that looks back only `window` tokens needs no more than window + 1 slots: position p lives
in slot p % S, and a new token takes the place of the one that has just left the window.
"""

import torch
from torch import Tensor

from nanochat.gpt import GPTConfig


# @learn:inference.kv_cache
class KVCache:
    """Keys and values of `rows` conversations of at most `capacity` tokens each.

    `view(start, stop)` is a cache over neighbouring rows: a prefill fills some, a step feeds many.
    `ring=False` gives every layer `capacity` slots: the slower truth, and the way back (a ring has
    forgotten what it overwrote, so its rows can't be shortened). `spare` slots more in each ring
    let a row be shortened by up to that many tokens.
    """

    def __init__(
        self,
        config: GPTConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        ring: bool = True,
        spare: int = 0,
    ) -> None:
        G, D = config.n_kv_head, config.head_size
        self.windows = config.windows()
        self.slots = [min(w + 1 + spare, capacity) if ring else capacity for w in self.windows]
        self.rows, self.capacity, self.spare = rows, capacity, spare if ring else capacity
        # Zeros, not empty: a masked value has weight 0, and 0 * NaN would still be NaN.
        # A head's keys stand side by side in memory: one head at a time reads all of them.
        self.keys = [torch.zeros(rows, G, S, D, dtype=dtype, device=device) for S in self.slots]
        self.values = [torch.zeros_like(keys) for keys in self.keys]  # L x (B, G, S, D)
        self.last = torch.zeros(rows, 1, config.n_embd, dtype=dtype, device=device)  # (B, 1, C)
        self.lengths = [0] * rows  # tokens in each row; plain numbers, so no device is waited for

    def view(self, start: int, stop: int) -> "CacheView":
        """Rows start..stop-1 as the model sees them in one forward pass; a slice, never a copy."""
        assert 0 <= start < stop <= self.rows, "the rows of a view exist"
        return CacheView(self, start, stop)

    def reset(self, row: int) -> None:
        """Forget one conversation; its row may be used again."""
        self.lengths[row] = 0
        self.last[row] = 0

    def wipe(self, row: int) -> None:
        """Zeros wherever the row had anything, NaN for example."""
        for tensor in (*self.keys, *self.values, self.last):
            tensor[row] = 0

    def rewind(self, row: int, length: int, last: Tensor) -> None:
        """Forget all but the first `length` tokens; `last` (1, C) is the last one's embedding.

        A forgotten token's slot claims to hold one from before the window: no mask lets it through.
        """
        assert 0 <= self.lengths[row] - length <= self.spare, "a ring gives back no more than spare"
        self.lengths[row] = length
        self.last[row] = last

    def copy_row(self, source: int, target: int) -> None:
        """Make `target` a copy of `source`: one prefill for many answers, or a row moved."""
        length = self.lengths[source]
        for tensor in (*self.keys, *self.values):
            used = min(length, tensor.size(2))
            tensor[target, :, :used] = tensor[source, :, :used]
        self.last[target] = self.last[source]
        self.lengths[target] = length

    @property
    def size_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values, self.last))


class CacheView:
    """The cache during one forward pass over rows start..stop-1. Make a new one for each pass."""

    def __init__(self, cache: KVCache, start: int, stop: int) -> None:
        self.cache, self.rows = cache, slice(start, stop)
        lengths = cache.lengths[self.rows]
        self.device = cache.last.device
        self.shortest, self.longest = min(lengths), max(lengths)
        self.before = torch.tensor(lengths, device=self.device)  # (B,) tokens already there
        # Layers with the same window share their mask and slots: made once a pass, not a layer.
        self.masks: dict[tuple[int, int], Tensor | None] = {}
        self.places: dict[int, tuple[Tensor, Tensor]] = {}

    # @learn:architecture.smear
    @property
    def previous(self) -> Tensor:
        """(B, 1, C): the last token's embedding, for smear; zeros in a fresh row."""
        return self.cache.last[self.rows].clone()  # the model sets the new one before it is read

    @previous.setter
    def previous(self, x: Tensor) -> None:
        self.cache.last[self.rows] = x

    def positions(self, count: int) -> Tensor:
        """(B, count): the places of the next `count` tokens of each row."""
        return self.before[:, None] + torch.arange(count, device=self.device)

    # @learn:inference.kv_cache
    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store k, v (B, T, G, D); return the keys and values to look at, and who sees whom.

        The mask is (B or 1, 1, T, S); None says that every query sees every key returned.
        """
        T, slots = k.size(1), self.cache.slots[layer]
        assert self.longest + T <= self.cache.capacity, "the engine ends a row before it overflows"
        keys = self.cache.keys[layer][self.rows].transpose(1, 2)  # (B, G, S, D) -> (B, S, G, D)
        values = self.cache.values[layer][self.rows].transpose(1, 2)
        mask = self._mask(self.cache.windows[layer], slots, T)
        if T == 1:
            self._write(keys, values, k, v)
            seen = min(self.longest + 1, slots)
            return keys[:, :seen], values[:, :seen], mask
        # Many new tokens may push out of a ring what their first ones still need: join old and new
        # for the look-up, then write. A fresh row has nothing old, so nothing is copied.
        seen, k_all, v_all = min(self.longest, slots), k, v
        if seen:
            k_all, v_all = torch.cat((keys[:, :seen], k), 1), torch.cat((values[:, :seen], v), 1)
        self._write(keys, values, k, v)
        return k_all, v_all, mask

    def advance(self, count: int) -> None:
        """Every layer has stored `count` new tokens: the rows are longer now."""
        for row in range(self.rows.start, self.rows.stop):
            self.cache.lengths[row] += count

    def _write(self, keys: Tensor, values: Tensor, k: Tensor, v: Tensor) -> None:
        """Put the new tokens into their slots; of more than fit, only the last ones."""
        T, slots = k.size(1), keys.size(1)
        kept = min(T, slots)
        if slots not in self.places:
            slot = self.positions(T)[:, T - kept :] % slots  # (B, kept)
            self.places[slots] = torch.arange(len(slot), device=self.device)[:, None], slot
        row, slot = self.places[slots]
        keys[row, slot] = k[:, T - kept :]
        values[row, slot] = v[:, T - kept :]

    def _mask(self, window: int, slots: int, T: int) -> Tensor | None:
        """May the query at position q see the key at position p?  0 <= q - p <= window, p >= 0."""
        if (window, slots) not in self.masks:
            if T == 1:  # written before it is read: the slots hold the new token too
                held = held_positions(self.before + 1, slots, min(self.longest + 1, slots))
            else:
                old = held_positions(self.before, slots, min(self.longest, slots))
                held = torch.cat((old, self.positions(T)), dim=1)  # (B, S)
            distance = self.positions(T)[:, :, None] - held[:, None]  # (B, T, S)
            mask = (distance >= 0) & (distance <= window) & (held >= 0)[:, None]
            # Rows of one length that may see all they hold need no mask: the path of a single chat.
            free = T == 1 and self.shortest == self.longest and held.size(1) <= window + 1
            self.masks[window, slots] = None if free else mask[:, None]  # (B, 1, T, S)
        return self.masks[window, slots]


# @def:ring
# A row of slots used in turn: position p lives in slot p modulo their number.
def held_positions(lengths: Tensor, slots: int, seen: int) -> Tensor:
    """(B, seen): which position each of the first slots holds in rows of `lengths` (B,) tokens.

    Slot s holds the latest position p < length with p % slots == s; negative means none yet.

    >>> held_positions(torch.tensor([6, 2]), slots=4, seen=4).tolist()
    [[4, 5, 2, 3], [0, 1, -2, -1]]
    """
    slot = torch.arange(seen, device=lengths.device)
    return lengths[:, None] - 1 - (lengths[:, None] - 1 - slot) % slots
