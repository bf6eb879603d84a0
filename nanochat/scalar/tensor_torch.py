"""The same models in torch: its autograd is an independent check of ours, and runs on a GPU.

Parameters and gradients cross over from flat numpy arrays at every step, so all engines share one
optimizer; that costs more than the small models themselves. The only file here that imports torch.
Read: forward -> TorchEngine. T tokens, V vocabulary, C width, H heads, D head size, P parameters.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from nanochat.scalar.errors import ScalarError
from nanochat.scalar.shape import Shape

DTYPES = {"float64": torch.float64, "float32": torch.float32}


def normalise(x: torch.Tensor) -> torch.Tensor:
    return x * (x.square().mean(-1, keepdim=True) + 1e-5) ** -0.5


def attend(x: torch.Tensor, w: dict[str, torch.Tensor], layer: int, heads: int) -> torch.Tensor:
    """Causal attention of one layer, all heads together: (T, C) -> (T, C)."""
    t, c = x.shape
    names = (f"{layer}.{name}" for name in ("query", "key", "value"))
    q, k, v = ((x @ w[name].T).view(t, heads, -1).transpose(0, 1) for name in names)  # (H, T, D)
    scores = q @ k.transpose(1, 2) * (c // heads) ** -0.5  # (H, T, T)
    future = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
    share = scores.masked_fill(future, -torch.inf).softmax(-1)
    return (share @ v).transpose(0, 1).reshape(t, c) @ w[f"{layer}.mix"].T


def forward(tokens: torch.Tensor, shape: Shape, w: dict[str, torch.Tensor]) -> torch.Tensor:
    """Scores (T, V) after each of the tokens (T,)."""
    x = w["token"][tokens]
    if "position" in w:
        x = x + w["position"][: len(tokens)]
    if shape.norm:
        x = normalise(x)
    for layer in range(shape.layers if shape.model == "mini-gpt" else 0):
        x = attend(normalise(x) if shape.norm else x, w, layer, shape.heads) + x
        hidden = ((normalise(x) if shape.norm else x) @ w[f"{layer}.up"].T).relu()
        if shape.activation == "relu2":
            hidden = hidden.square()
        x = hidden @ w[f"{layer}.down"].T + x
    return x @ w.get("head", w["token"]).T


class TorchEngine:
    """An engine.Engine in torch."""

    def __init__(self, shape: Shape, device: str, dtype: str) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ScalarError(f"device {device}: torch sees no CUDA here, use --device cpu")
        self._shape, self._device, self._dtype = shape, device, DTYPES[dtype]

    def _tensor(self, numbers: np.ndarray) -> torch.Tensor:
        return torch.tensor(numbers, dtype=self._dtype, device=self._device)

    def _loss(self, flat: torch.Tensor, document: Sequence[int]) -> torch.Tensor:
        tokens = torch.tensor(document, device=self._device)
        scores = forward(tokens[:-1], self._shape, self._shape.as_arrays(flat))
        return F.cross_entropy(scores, tokens[1:])

    def gradient(
        self, parameters: np.ndarray, document: Sequence[int], gradient: np.ndarray, seed: float
    ) -> float:
        """Loss of a document; adds `seed` times the gradient that torch finds."""
        flat = self._tensor(parameters).requires_grad_()
        loss = self._loss(flat, document)
        (found,) = torch.autograd.grad(loss, flat)
        gradient += seed * found.cpu().double().numpy()
        return loss.item()

    @torch.no_grad()
    def loss(self, parameters: np.ndarray, document: Sequence[int]) -> float:
        return self._loss(self._tensor(parameters), document).item()

    @torch.no_grad()
    def scores(self, parameters: np.ndarray, tokens: Sequence[int]) -> list[float]:
        w = self._shape.as_arrays(self._tensor(parameters))
        ids = torch.tensor(list(tokens), device=self._device)
        return forward(ids, self._shape, w)[-1].tolist()
