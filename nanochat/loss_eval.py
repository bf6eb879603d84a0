"""Bits per byte: how many bits the model needs for each byte of text, whatever its vocabulary.

Called by the scripts base_train, chat_sft and base_eval. A model that knows nothing needs 8.
bpb = nats of all graded tokens / (ln 2 x bytes of those tokens); specials have no bytes and
do not count.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from nanochat.distributed import here
from nanochat.errors import UserError
from nanochat.gpt import GPT


class NothingToEvaluate(UserError):
    """The evaluation data has no token with bytes."""


# @learn:foundations.bits_per_byte
@torch.no_grad()
def bits_per_byte(
    model: GPT, batches: Iterable[tuple[Tensor, Tensor]], token_bytes: list[int]
) -> float:
    """Mean over every graded target of `batches`; each batch is (inputs, targets), (B, T).

    Of several processes each brings batches of its own (distributed.World.mine); all get the mean.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    sizes = torch.tensor(token_bytes, device=device)
    nats, size = 0.0, 0
    for inputs, targets in batches:
        inputs, targets = inputs.to(device), targets.to(device)
        losses = model(inputs, targets, reduction="none")  # (B, T)
        bytes_ = sizes[targets.clamp(min=0)] * (targets >= 0)
        nats += float((losses * (bytes_ > 0)).sum(dtype=torch.float64))
        size += int(bytes_.sum())
    model.train(was_training)
    total_nats, total_bytes = here().sum([nats, size])
    if not total_bytes:
        raise NothingToEvaluate("no graded token has bytes; give more validation text")
    return total_nats / (math.log(2) * total_bytes)
