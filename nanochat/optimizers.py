"""Which weight learns how: matrices in the blocks by Muon, everything else by AdamW.

Called by train_loop.py. Read: OptimizerSettings -> Optimizers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.adamw import AdamGroup, AdamW
from nanochat.device import has_fast_bf16
from nanochat.gpt import GPT
from nanochat.muon import Muon
from nanochat.sharding import shards_for

REFERENCE_WIDTH = 768  # the learning rates below were found at this many channels


@dataclass(frozen=True)
class OptimizerSettings:
    """Learning rates before the schedule; the AdamW ones are scaled by (C / 768)^-0.5."""

    matrix_lr: float = 0.02  # Muon
    embedding_lr: float = 0.3  # token tables; value tables take half
    head_lr: float = 0.008  # the matrix that turns channels into scores
    scalar_lr: float = 0.5  # the mixing numbers of the residual stream
    weight_decay: float = 0.28  # Muon's, at the start of its cosine
    lr_scale: float = 1.0  # a factor on all of them


# @learn:architecture.residual_scalars
class Optimizers:
    """Muon and AdamW behind one step(), over the processes that have met (distributed.here())."""

    def __init__(self, model: GPT, settings: OptimizerSettings) -> None:
        self.settings = settings
        self.named = dict(model.named_parameters())
        blocks = {name for name in self.named if name.startswith("blocks.")}
        width = (model.config.n_embd / REFERENCE_WIDTH) ** -0.5
        s, scale = settings, settings.lr_scale
        groups = [
            AdamGroup(("head.weight",), s.head_lr * width * scale, (0.8, 0.96), 0.01),
            AdamGroup(("embed.weight",), s.embedding_lr * width * scale, (0.8, 0.995), 0.001),
            AdamGroup(
                self._starting("values."), s.embedding_lr * width * scale / 2, (0.8, 0.995), 0.01
            ),
            AdamGroup(
                self._starting("residual_scale"), s.scalar_lr * 0.01 * scale, (0.8, 0.95), 0.05
            ),
            AdamGroup(self._starting("input_scale"), s.scalar_lr * scale, (0.96, 0.95), 0.0),
            AdamGroup(self._starting("smear_", "backout_"), 0.2 * scale, (0.8, 0.95), 0.0),
        ]
        rest = set(self.named) - blocks - {name for group in groups for name in group.names}
        assert not rest, f"no optimizer for {rest}"
        device = next(model.parameters()).device
        self.shards = shards_for(model)
        self.adamw = AdamW(groups, self.named, self.shards)
        self.muon = Muon(
            {name: self.named[name] for name in self.named if name in blocks},
            s.matrix_lr * scale,
            torch.bfloat16 if has_fast_bf16(device) else torch.float32,
            self.shards,
        )

    def _starting(self, *prefixes: str) -> tuple[str, ...]:
        return tuple(name for name in self.named if name.startswith(prefixes))

    def step(self, lr_scale: float, momentum: float, decay_scale: float) -> None:
        """One update of every weight; the three factors come from schedules.py."""
        self.shards.begin([self.named[name] for name in self.adamw.names], self.muon.stacks())
        self.adamw.step(lr_scale)
        self.muon.step(lr_scale, momentum, self.settings.weight_decay * decay_scale)
        self.shards.finish()

    def zero_grad(self) -> None:
        for parameter in self.named.values():
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        return self.adamw.state_dict() | self.muon.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.adamw.load_state_dict(state)
        self.muon.load_state_dict(state)
