"""Weights laid out for many small products: the same model, a tenth less time for a decode step.

A product of few rows spends longer rearranging the matrix than multiplying. oneDNN can keep each
matrix the way its kernels want it; that costs a second copy of the weights in memory, and later
changes of the weights are not seen. So only a server packs, once, after loading.
Called by chat_web.py. Read: pack -> PackedLinear. Measured in dev/LOG.md.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.gpt import GPT, Linear

SMALLEST = 128 * 128  # weights of a matrix that gains; below, calling costs more than multiplying
ONE_ROW_GAINS = 2**20  # a single row gains only where the matrix is larger than the near caches
ROWS_IN_MIND = 16  # oneDNN chooses the layout for a number of rows; others work too


class PackedLinear(Linear):
    """A Linear that keeps a packed copy of its matrix, and shares the matrix itself."""

    def __init__(self, linear: Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight
        self.register_parameter("bias", None)
        with torch.no_grad():
            weight = linear.weight.detach()
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_IN_MIND)

    def forward(self, x: Tensor) -> Tensor:
        one_row = x.numel() == x.size(-1)
        if one_row and self.weight.numel() < ONE_ROW_GAINS:
            return F.linear(x, self.weight)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")


def can_pack(model: GPT) -> bool:
    """Only fp32 on a processor whose PyTorch was built with oneDNN."""
    plain = model.dtype == torch.float32 and model.head.weight.device.type == "cpu"
    return plain and torch.backends.mkldnn.is_available()


def pack(model: GPT) -> int:
    """Pack every matrix that gains, for inference only; returns how many. 0 where it can't be."""
    if not can_pack(model):
        return 0
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is Linear and child.weight.numel() >= SMALLEST
    ]
    for parent, name, child in found:
        setattr(parent, name, PackedLinear(child))
    return len(found)
