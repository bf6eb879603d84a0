"""Which part of every weight this process updates, and how all come to have the new weights.

Called by optimizers.py, adamw.py and muon.py. Read: Whole (one process: everything, nothing sent)
-> Zero2 (weights whole everywhere, optimizer state and the update divided) -> Fsdp (weights divided
too) -> spread_model -> shards_for. Tables are divided by rows, stacks of K matrices by matrix.
Source: ZeRO (Rajbhandari 2019), FSDP (Zhao 2023).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.distributed import Coming, World, here

if TYPE_CHECKING:  # two seconds to import, and only a divided model needs them
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

Update = Iterator[tuple[Tensor, Tensor]]  # (the part of a weight that is here, its change)


class Whole:
    """One process has every weight, every gradient and all of the optimizer's state."""

    in_flight = 0  # stacks whose updates may be under way while the next is computed

    def __init__(self, world: World) -> None:
        self.world = world

    def begin(self, tables: Sequence[nn.Parameter], stacks: Sequence[list[nn.Parameter]]) -> None:
        """All gradients are there: start sending them."""

    def rows(self, weight: nn.Parameter) -> Tensor:
        """The rows of a table that are updated here, as a view."""
        return weight

    def row_grads(self, weight: nn.Parameter) -> Tensor | None:
        return weight.grad

    def share_rows(self, weight: nn.Parameter) -> None:
        """The rows are updated: start sending them."""

    def matrices(self, count: int) -> slice:
        """Which matrices of a stack are orthogonalised here."""
        return self.world.part(count)

    def stacked_grads(self, weights: list[nn.Parameter]) -> Tensor:
        """Gradients of those matrices, (k, M, N)."""
        return torch.stack([w.grad for w in weights if w.grad is not None])

    def spread(self, changes: Tensor, weights: list[nn.Parameter]) -> Update:
        """Changes of our matrices (k, M, N) -> every weight that is here, with its change."""
        return zip(weights, changes, strict=True)

    def finish(self) -> None:
        """Wait until every weight is the new one."""

    def whole(self, own: Tensor, count: int) -> Tensor:
        """Optimizer state for a checkpoint: of all processes, in the leading one; empty in others.

        So a checkpoint does not depend on how many processes wrote it.
        """
        return own

    def own(self, whole: Tensor) -> Tensor:
        """The part of it that belongs here."""
        return whole[self.world.part(len(whole))]


# @learn:optimization.zero_sharding
class Zero2(Whole):
    """Every process has all weights; each updates its share and sends it to the others."""

    in_flight = 2

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.coming: dict[int, Coming] = {}
        self.leaving: list[tuple[nn.Parameter, Coming]] = []

    def begin(self, tables: Sequence[nn.Parameter], stacks: Sequence[list[nn.Parameter]]) -> None:
        """Start adding up the gradients of all processes; each will own a part."""
        for weight in tables:
            if weight.grad is not None:
                self.coming[id(weight)] = self.world.sum_part(weight.grad)
        for weights in stacks:
            self.coming[id(weights[0])] = self.world.sum_part(super().stacked_grads(weights))

    def rows(self, weight: nn.Parameter) -> Tensor:
        return weight.data[self.world.part(len(weight))]

    def row_grads(self, weight: nn.Parameter) -> Tensor | None:
        return None if weight.grad is None else self.coming.pop(id(weight)).wait()

    def share_rows(self, weight: nn.Parameter) -> None:
        self.leaving.append((weight, self.world.gather(self.rows(weight), len(weight))))

    def stacked_grads(self, weights: list[nn.Parameter]) -> Tensor:
        return self.coming.pop(id(weights[0])).wait()

    def spread(self, changes: Tensor, weights: list[nn.Parameter]) -> Update:
        coming = self.world.gather(changes, len(weights))  # under way while the next is computed
        return ((w, change) for w, change in zip(weights, coming.wait(), strict=True))

    def finish(self) -> None:
        for weight, coming in self.leaving:
            weight.data.copy_(coming.wait())
        self.leaving.clear()

    def whole(self, own: Tensor, count: int) -> Tensor:
        gathered = self.world.gather(own, count).wait()
        return gathered.cpu() if self.world.leads else gathered.new_empty(0)


# @learn:optimization.zero_sharding
class Fsdp(Zero2):
    """Every process has a share of each weight's rows; a matrix is whole while it is needed.

    PyTorch gathers weights before a block runs and sums gradients after it, each to its rows.
    """

    in_flight = 0

    def begin(self, tables: Sequence[nn.Parameter], stacks: Sequence[list[nn.Parameter]]) -> None:
        """Nothing to send: the backward pass has summed every gradient."""

    def rows(self, weight: nn.Parameter) -> Tensor:
        return local(weight)

    def row_grads(self, weight: nn.Parameter) -> Tensor | None:
        return None if weight.grad is None else local(weight.grad)

    def share_rows(self, weight: nn.Parameter) -> None:
        """Each process keeps its rows."""

    def stacked_grads(self, weights: list[nn.Parameter]) -> Tensor:
        """Our share of the whole gradient matrices, (K, M, N)."""
        own, kept = self.matrices(len(weights)), []
        for number, weight in enumerate(weights):
            matrix = cast("DTensor", weight.grad).full_tensor()  # one whole matrix at a time
            if own.start <= number < own.stop:
                kept.append(matrix)
        return torch.stack(kept) if kept else local(weights[0]).new_empty(0, *weights[0].shape)

    def spread(self, changes: Tensor, weights: list[nn.Parameter]) -> Update:
        """Send each matrix's change from its owner to everybody, one at a time."""
        chunk, own = -(-len(weights) // self.world.size), self.matrices(len(weights))
        for number, weight in enumerate(weights):
            mine = own.start <= number < own.stop
            change = changes[number - own.start] if mine else changes.new_empty(weight.shape)
            dist.broadcast(change, number // chunk)
            yield local(weight), self.own(change)


def local(tensor: Tensor) -> Tensor:
    """The rows of a divided tensor that are here."""
    return cast("DTensor", tensor).to_local()


def spread_model(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Divide every weight over the processes (FSDP); gathered block by block when it runs.

    PyTorch divides rows as World.part does. Gradients are summed, not averaged.
    """
    from torch.distributed.fsdp import fully_shard

    for module in (*blocks, model):
        fully_shard(module)
        cast("FSDPModule", module).set_gradient_divide_factor(1.0)
        cast("FSDPModule", module).set_force_sum_reduction_for_comms(True)  # all that gloo can do


def is_spread(model: nn.Module) -> bool:
    return hasattr(next(model.parameters()), "full_tensor")  # as a DTensor has


def shards_for(model: nn.Module) -> Whole:
    """The way that fits the model and the processes that have met."""
    world = here()
    if is_spread(model):
        return Fsdp(world)
    return Zero2(world) if world.size > 1 else Whole(world)


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Every weight whole, for a checkpoint; of a divided model only in the leading process."""
    state: dict[str, Any] = model.state_dict()
    if not is_spread(model):
        return state
    keep = here().leads
    gathered = ((name, cast("DTensor", t).full_tensor()) for name, t in state.items())
    return {name: t.cpu() for name, t in gathered if keep}


@torch.no_grad()
def load_weights(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Whole weights into a model, divided or not."""
    if not is_spread(model):
        model.load_state_dict(state)
        return
    for name, weight in model.named_parameters():
        local(weight).copy_(state[name][here().part(len(weight))])
