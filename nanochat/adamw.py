"""AdamW: every single weight gets its own step size, from the size of its recent gradients.

Called by optimizers.py for embeddings, the head and the scalars; Muon (muon.py) has the matrices.
Source: Adam (Kingma and Ba 2014), decoupled weight decay (Loshchilov and Hutter 2017).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class AdamGroup:
    """Parameters that learn with the same settings."""

    names: tuple[str, ...]
    lr: float
    betas: tuple[float, float]
    weight_decay: float


# @learn:optimization.adamw
class AdamW:
    """m: mean gradient, v: mean squared gradient; a step is m / sqrt(v), both bias-corrected."""

    eps = 1e-10

    def __init__(self, groups: list[AdamGroup], named: dict[str, nn.Parameter]) -> None:
        self.groups, self.params, self.steps = groups, named, 0
        names = [name for group in groups for name in group.names]
        self.m = {name: torch.zeros_like(named[name]) for name in names}
        self.v = {name: torch.zeros_like(named[name]) for name in names}

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
                weight, m, v = self.params[name], self.m[name], self.v[name]
                if weight.grad is None:
                    continue
                m.lerp_(weight.grad, 1 - beta1)
                v.mul_(beta2).addcmul_(weight.grad, weight.grad, value=1 - beta2)
                spread = (v / correct2).sqrt_().add_(self.eps)
                if group.weight_decay:
                    weight.mul_(1 - lr * group.weight_decay)
                weight.addcdiv_(m, spread, value=-lr / correct1)

    def state_dict(self) -> dict[str, Tensor]:
        """All averages, whole, as a checkpoint keeps them."""
        state = {f"adamw.{name}.m": m for name, m in self.m.items()}
        state |= {f"adamw.{name}.v": v for name, v in self.v.items()}
        return state | {"adamw.steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up the averages and the step count of `state_dict`."""
        for name in self.m:
            self.m[name].copy_(state[f"adamw.{name}.m"])
            self.v[name].copy_(state[f"adamw.{name}.v"])
        self.steps = int(state["adamw.steps"])
