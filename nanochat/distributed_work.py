"""An evaluation in several processes: each does its share of the items, all get every result.

Called by core_eval_run.py, chat_eval_tasks.py and scripts/chat_rl.py. Read: shared_out.
What is done to an item must not depend on its neighbours: so the results are those of one process.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

from nanochat.distributed import here

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


def shared_out(items: Sequence[I], work: Callable[[Sequence[I]], Sequence[R]]) -> list[R]:
    """One result for each item, in order; process r of W works on items r, r + W, ...

    All processes of the run must call it with the same items. Not covered: work that fails in one
    process only; the others then wait until the connection is given up.

    >>> shared_out([1, 2, 3], lambda some: [x * x for x in some])
    [1, 4, 9]
    """
    world = here()
    if world.size == 1:
        return list(work(items))
    own = list(work(items[world.rank :: world.size]))
    every: list[Any] = [None] * world.size
    dist.all_gather_object(every, own)
    return [every[n % world.size][n // world.size] for n in range(len(items))]
