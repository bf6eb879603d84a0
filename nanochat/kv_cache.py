"""Remember the keys and values of earlier tokens, so that a new token costs one step, not T.

Called by engine.py, which owns the rows; gpt.py asks it for positions and past keys.
Each row of the batch has its own length, so conversations of different lengths decode together.
B rows, S capacity, G key/value heads, D head size, L layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat.gpt import GPTConfig


class KVCache:
    """Keys and values of `rows` conversations of at most `capacity` tokens each.

    `view(rows)` gives a cache over some of the rows: a prefill fills one, a decode step many.
    """

    def __init__(
        self,
        config: GPTConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.n_layer, rows, capacity, config.n_kv_head, config.head_size)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)  # (L, B, S, G, D)
        self.values = torch.zeros_like(self.keys)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)  # (B,)
        self.last = torch.zeros(rows, 1, config.n_embd, dtype=dtype, device=device)  # (B, 1, C)
        self.windows = config.windows()
        self.capacity = capacity

    def view(self, rows: Sequence[int]) -> "CacheView":
        return CacheView(self, list(rows))

    def reset(self, row: int) -> None:
        """Forget one conversation; its row may be used again."""
        self.lengths[row] = 0
        self.last[row] = 0

    def copy_row(self, source: int, target: int) -> None:
        """Start `target` from the state of `source` (one prefill, many samples)."""
        for tensor in (self.keys, self.values):
            tensor[:, target] = tensor[:, source]
        self.lengths[target] = self.lengths[source]
        self.last[target] = self.last[source]


class CacheView:
    """The cache as the model sees it during one forward pass over some of its rows."""

    def __init__(self, cache: KVCache, rows: list[int]) -> None:
        self.cache = cache
        self.rows = torch.tensor(rows, device=cache.lengths.device)
        self.start = cache.lengths[self.rows]  # (B,) tokens already there
        self.reach = int(self.start.max())

    @property
    def previous(self) -> Tensor:
        return self.cache.last[self.rows]

    @previous.setter
    def previous(self, x: Tensor) -> None:
        self.cache.last[self.rows] = x

    def positions(self, count: int) -> Tensor:
        """(B, count): the places of the next `count` tokens of each row."""
        return self.start[:, None] + torch.arange(count, device=self.start.device)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Store k, v (B, T, G, D); return all keys and values (B, S, G, D) and who sees whom."""
        B, T = k.shape[:2]
        where = self.positions(T)  # (B, T)
        end = self.reach + T
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows[:, None], where] = k
        values[self.rows[:, None], where] = v
        distance = where[:, :, None] - torch.arange(end, device=where.device)  # (B, T, S)
        mask = (distance >= 0) & (distance <= self.cache.windows[layer])
        return keys[self.rows, :end], values[self.rows, :end], mask[:, None]

    def advance(self, count: int) -> None:
        self.cache.lengths[self.rows] = self.start + count
