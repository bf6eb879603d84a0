"""Several processes train one model: who they are, and what they send each other.

Each process works on its own share of every step. Gradients are summed, each process updates its
share of the weights, and the new weights go to all (ZeRO stage 2: optimizer state and summed
gradients exist once, not once a process). gloo on processors, NCCL on CUDA.
Called by train_loop.py and optimizers.py. Read: World (what is sent) -> join -> here -> connection.
K rows of a tensor's first axis; W processes.
"""

import datetime
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.errors import UserError
from nanochat.launch import launch

T = TypeVar("T")
CPU = torch.device("cpu")
SILENCE_S = 600  # a process that says nothing for this long is taken for dead
BROKEN_SIGNS = ("gloo", "nccl", "connection", "peer", "timed out", "socket", "store")


class ProcessLost(UserError):
    """Another process of this run ended, or the way to it broke."""


# @learn:optimization.ddp
@dataclass(frozen=True)
class World:
    """The processes of one run. A world of one sends nothing, and returns what it is given."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def leads(self) -> bool:
        """True in one process: it shows progress and writes files."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Which of `count` rows are this process's: as even as can be, the last ones may get none.

        >>> World(0, 2).part(5), World(1, 2).part(5), World(2, 3).part(2)
        (slice(0, 3, None), slice(3, 5, None), slice(2, 2, None))
        """
        chunk = -(-count // self.size)
        return slice(min(self.rank * chunk, count), min((self.rank + 1) * chunk, count))

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """As many of the items for every process; where there are too few, all of them for all."""
        even = len(items) // self.size * self.size
        return items[self.rank : even : self.size] if even else items

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element by element over all processes, in double precision."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    # @learn:optimization.ddp
    def sum_part(self, x: Tensor) -> "Coming":
        """Sum (K, ...) over all processes; each gets its own rows: (part, ...)."""
        if self.size == 1:
            return Coming(x)
        own, padded = self.part(len(x)), self._padded(x)
        out = padded.new_empty(len(padded) // self.size, *x.shape[1:])
        work = dist.reduce_scatter_single(out, padded, async_op=True)
        return Coming(out, work, own.stop - own.start)

    def gather(self, own: Tensor, count: int) -> "Coming":
        """Everyone's rows together: (part, ...) of each -> (count, ...) for all."""
        if self.size == 1:
            return Coming(own)
        chunk = -(-count // self.size)
        padded = own.new_zeros(chunk, *own.shape[1:])
        padded[: len(own)] = own
        out = own.new_empty(chunk * self.size, *own.shape[1:])
        return Coming(out, dist.all_gather_single(out, padded, async_op=True), count)

    def _padded(self, x: Tensor) -> Tensor:
        missing = -len(x) % self.size
        return torch.cat((x, x.new_zeros(missing, *x.shape[1:]))) if missing else x.contiguous()

    def wait_for_all(self) -> None:
        """Go on when every process is here."""
        self.sum([0.0])

    def leader_first(self, action: Callable[[], T]) -> T:
        """Every process does it, the leading one before the others (it may clear a folder)."""
        try:
            result = action() if self.leads else None
        finally:
            if self.leads:
                self.wait_for_all()
        if not self.leads:
            self.wait_for_all()
            return action()
        return result  # type: ignore[return-value]


@dataclass
class Coming:
    """A tensor on its way: wait() until it is here; only the first `count` rows mean something."""

    tensor: Tensor
    work: dist.Work | None = None
    count: int = -1

    def wait(self) -> Tensor:
        """The tensor, once the other processes have sent their part."""
        if self.work is not None:
            self.work.wait()
            self.work = None
        return self.tensor if self.count < 0 else self.tensor[: self.count]


def join(device: torch.device) -> World:
    """Meet the other processes of this run, once; a process started by hand is a world of one."""
    me = launch()
    if not me.alone and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(me.local_rank)
        backend = "nccl" if device.type == "cuda" else "gloo"
        # NCCL wants to know its GPU before the first message, or it guesses and may wait for ever.
        own = torch.device("cuda", me.local_rank) if backend == "nccl" else None
        silence = datetime.timedelta(seconds=SILENCE_S)
        dist.init_process_group(backend, timeout=silence, device_id=own)
    return here()


def here() -> World:
    """The world this process has joined."""
    if not (dist.is_available() and dist.is_initialized()):
        return World()
    on_cuda = dist.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")
    return World(dist.get_rank(), dist.get_world_size(), device)


@contextmanager
def connection(remedy: Callable[[], str]) -> Iterator[None]:
    """Within it a broken connection is ProcessLost, with `remedy()`, not a page of C++ frames."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        text = str(error)
        if here().size == 1 or not any(sign in text.lower() for sign in BROKEN_SIGNS):
            raise
        first = text.strip().splitlines()[0][:120]
        raise ProcessLost(f"a process of this run ended ({first}); {remedy()}") from error
