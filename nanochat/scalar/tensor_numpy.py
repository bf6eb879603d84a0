"""The same models on whole matrices, with the gradient worked out by hand, in numpy float64.

Fast because it knows the model, which the tape does not. Every forward step keeps what its backward
step needs. Read: normalise and its pair -> Layer -> NumpyEngine.
T tokens of the document, V vocabulary, C width, H heads, D head size, P parameters.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nanochat.scalar.shape import Shape


# @learn:foundations.broadcasting
def normalise(x: np.ndarray, on: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """RMSNorm (T, C) -> (T, C), and the scales (T, 1); off, x itself and None."""
    if not on:
        return x, None
    scale = (np.einsum("tc,tc->t", x, x) / x.shape[1] + 1e-5) ** -0.5
    return x * scale[:, None], scale[:, None]


def normalise_back(d: np.ndarray, y: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """From d(loss)/dy to d(loss)/dx, given y, scale = normalise(x)."""
    if scale is None:
        return d
    along = np.einsum("tc,tc->t", d, y) / y.shape[1]
    return scale * (d - y * along[:, None])


# @learn:foundations.softmax
def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers


class Layer:
    """Attention and MLP with a residual around each; `forward` leaves what `backward` needs."""

    def __init__(self, shape: Shape, number: int) -> None:
        self.shape, self.name = shape, f"{number}."
        self.size = shape.width // shape.heads  # D

    def bind(self, w: dict[str, Any], flat: np.ndarray) -> dict[str, np.ndarray]:
        """This layer's matrices as views; query, key and value stand together (3C, C)."""
        first, last = (self.shape.matrices[self.name + n] for n in ("query", "value"))
        bound = {n: w[self.name + n] for n in ("mix", "up", "down")}
        bound["qkv"] = flat[first.start : last.stop].reshape(-1, self.shape.width)
        return bound

    def forward(self, x: np.ndarray, w: dict[str, np.ndarray], mask: np.ndarray) -> np.ndarray:
        (t, c), h = x.shape, self.shape.heads
        self.in1, self.scale1 = normalise(x, self.shape.norm)
        qkv = self.in1 @ w["qkv"].T  # (T, C) -> (T, 3C)
        self.q, self.k, self.v = qkv.reshape(t, 3, h, self.size).transpose(1, 2, 0, 3)  # (H, T, D)
        scores = self.q @ self.k.transpose(0, 2, 1)  # (H, T, T)
        scores *= self.size**-0.5
        scores += mask
        self.share = softmax(scores)
        self.answer = (self.share @ self.v).transpose(1, 0, 2).reshape(t, c)  # (H, T, D) -> (T, C)
        x = self.answer @ w["mix"].T + x
        self.in2, self.scale2 = normalise(x, self.shape.norm)
        self.up = self.in2 @ w["up"].T  # (T, 4C)
        self.hidden = np.maximum(self.up, 0.0)
        if self.shape.activation == "relu2":
            self.hidden = self.hidden * self.hidden
        return self.hidden @ w["down"].T + x

    # @learn:foundations.backpropagation
    def backward(
        self, d: np.ndarray, w: dict[str, np.ndarray], g: dict[str, np.ndarray]
    ) -> np.ndarray:
        """From d(loss)/d(output) (T, C) to d(loss)/d(input); adds to the gradients g."""
        t, c = d.shape
        # 1) the MLP
        g["down"] += d.T @ self.hidden
        inner = d @ w["down"]  # (T, 4C)
        if self.shape.activation == "relu2":
            inner *= 2.0 * np.maximum(self.up, 0.0)
        else:
            inner *= self.up > 0
        g["up"] += inner.T @ self.in2
        back = inner @ w["up"]
        d = d + normalise_back(back, self.in2, self.scale2)
        # 2) attention
        g["mix"] += d.T @ self.answer
        heads = (d @ w["mix"]).reshape(t, self.shape.heads, self.size).transpose(1, 0, 2)
        d_qkv = np.empty((t, 3, self.shape.heads, self.size))
        d_q, d_k, d_v = d_qkv.transpose(1, 2, 0, 3)  # views (H, T, D)
        np.matmul(self.share.transpose(0, 2, 1), heads, out=d_v)
        d_share = heads @ self.v.transpose(0, 2, 1)  # (H, T, T)
        d_share -= np.einsum("hts,hts->ht", d_share, self.share)[:, :, None]
        d_share *= self.share
        d_share *= self.size**-0.5
        np.matmul(d_share, self.k, out=d_q)
        np.matmul(d_share.transpose(0, 2, 1), self.q, out=d_k)
        flat = d_qkv.reshape(t, 3 * c)
        g["qkv"] += flat.T @ self.in1
        back = flat @ w["qkv"]
        return d + normalise_back(back, self.in1, self.scale1)


class NumpyEngine:
    """An engine.Engine on matrices."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        n_layers = shape.layers if shape.model == "mini-gpt" else 0
        self._layers = [Layer(shape, number) for number in range(n_layers)]
        self._mask = np.triu(np.full((shape.context, shape.context), -np.inf), 1)
        self._bound: dict[int, tuple[np.ndarray, dict[str, Any], list[dict[str, Any]]]] = {}

    def _bind(self, flat: np.ndarray) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Views of a flat array; the same array comes at every step, so they are kept."""
        known = self._bound.get(id(flat))
        if known is None or known[0] is not flat:
            w = self._shape.as_arrays(flat)
            if len(self._bound) > 8:
                self._bound.clear()
            known = flat, w, [layer.bind(w, flat) for layer in self._layers]
            self._bound[id(flat)] = known
        return known[1], known[2]

    def _forward(self, parameters: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
        """Scores (T, V)."""
        w, layers = self._bind(parameters)
        t = len(tokens)
        x = w["token"][list(tokens)]  # (T, C)
        if "position" in w:
            x = x + w["position"][:t]
        self._x0, self._scale0 = normalise(x, self._shape.norm)
        x = self._x0
        for layer, bound in zip(self._layers, layers, strict=True):
            x = layer.forward(x, bound, self._mask[:t, :t])
        self._last = x
        return x @ w.get("head", w["token"]).T

    def _log_chances(
        self, parameters: np.ndarray, document: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Powers (T, V), their totals (T, 1) and the mean surprise."""
        scores = self._forward(parameters, document[:-1])
        scores -= scores.max(axis=1, keepdims=True)
        powers = np.exp(scores)
        total = powers.sum(axis=1, keepdims=True)
        targets = list(document[1:])
        picked = scores[np.arange(len(targets)), targets]
        return powers, total, float((np.log(total[:, 0]) - picked).sum() / len(targets))

    def gradient(
        self, parameters: np.ndarray, document: Sequence[int], gradient: np.ndarray, seed: float
    ) -> float:
        """Loss of a document; adds `seed` times its gradient, found by hand layer by layer."""
        powers, total, loss = self._log_chances(parameters, document)
        w, layers = self._bind(parameters)
        g, layer_gradients = self._bind(gradient)
        t = len(document) - 1
        powers /= total
        powers[np.arange(t), list(document[1:])] -= 1.0
        powers *= seed / t
        head = "head" if "head" in w else "token"
        g[head] += powers.T @ self._last
        d = powers @ w[head]
        steps = list(zip(self._layers, layers, layer_gradients, strict=True))
        for layer, bound, bound_gradient in reversed(steps):
            d = layer.backward(d, bound, bound_gradient)
        d = normalise_back(d, self._x0, self._scale0)
        np.add.at(g["token"], list(document[:-1]), d)
        if "position" in g:
            g["position"][:t] += d
        return loss

    def loss(self, parameters: np.ndarray, document: Sequence[int]) -> float:
        return self._log_chances(parameters, document)[2]

    def scores(self, parameters: np.ndarray, tokens: Sequence[int]) -> list[float]:
        return self._forward(parameters, tokens)[-1].tolist()
