"""AdamW: every single weight gets its own step size, from the size of its recent gradients.

Called by optimizers.py for embeddings, the head and the scalars; Muon (muon.py) has the matrices.
Source: Adam (Kingma and Ba 2014), decoupled weight decay (Loshchilov and Hutter 2017).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nanochat.distributed import World
from nanochat.sharding import Whole


@dataclass(frozen=True)
class AdamGroup:
    """Parameters that learn with the same settings."""

    names: tuple[str, ...]
    lr: float
    betas: tuple[float, float]
    weight_decay: float


# @learn:optimization.adamw
class AdamW:
    """m: mean gradient, v: mean squared gradient; a step is m / sqrt(v), both bias-corrected.

    `shards` says which rows of each parameter are updated in this process; only their m and v are
    here.
    """

    eps = 1e-10

    def __init__(
        self,
        groups: list[AdamGroup],
        named: dict[str, nn.Parameter],
        shards: Whole | None = None,
    ) -> None:
        self.groups, self.params, self.steps = groups, named, 0
        self.shards = shards or Whole(World())
        self.names = [name for group in groups for name in group.names]
        self.m = {name: torch.zeros_like(self.shards.rows(named[name])) for name in self.names}
        self.v = {name: torch.zeros_like(self.shards.rows(named[name])) for name in self.names}

    # @learn:optimization.zero_sharding
    @torch.no_grad()
    def step(self, lr_scale: float) -> None:
        """Update every parameter that has a gradient."""
        self.steps += 1
        for group in self.groups:
            lr, (beta1, beta2) = group.lr * lr_scale, group.betas
            correct1 = 1 - beta1**self.steps
            correct2 = 1 - beta2**self.steps
            for name in group.names:
                weight, m, v = self.shards.rows(self.params[name]), self.m[name], self.v[name]
                grad = self.shards.row_grads(self.params[name])
                if grad is None:
                    continue
                m.lerp_(grad, 1 - beta1)
                v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
                spread = (v / correct2).sqrt_().add_(self.eps)
                if group.weight_decay:
                    weight.mul_(1 - lr * group.weight_decay)
                weight.addcdiv_(m, spread, value=-lr / correct1)
                self.shards.share_rows(self.params[name])

    def state_dict(self) -> dict[str, Tensor]:
        """All averages, whole, as a checkpoint keeps them."""
        state = {"adamw.steps": torch.tensor(self.steps)}
        for name in self.names:
            for what, own in (("m", self.m), ("v", self.v)):
                state[f"adamw.{name}.{what}"] = self.shards.whole(own[name], len(self.params[name]))
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up the averages and the step count of `state_dict`."""
        for name in self.names:
            for what, own in (("m", self.m), ("v", self.v)):
                own[name].copy_(self.shards.own(state[f"adamw.{name}.{what}"]))
        self.steps = int(state["adamw.steps"])
