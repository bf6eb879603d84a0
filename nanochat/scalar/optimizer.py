"""SGD, Adam and AdamW on a flat list of numbers.

There are three ways to compute the same Adam step. `python` and `c` use libm's pow, as microgpt.py
does, and give the same bits; `numpy` is for the tensor engines (x*x is not always libm's x**2).
Read: Optimizer -> adam_in_python -> adam_in_numpy. P parameters.
"""

import ctypes
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from nanochat.scalar.tape_c import adam_in_c

Kind = Literal["sgd", "adam", "adamw"]
Kernel = Literal["python", "numpy", "c"]
EPSILON = 1e-8  # keeps Adam from dividing by 0


# @learn:optimization.sgd
@dataclass
class Optimizer:
    """Moves parameters against their gradient; remembers what it needs between steps."""

    kind: Kind
    n_parameters: int
    beta1: float = 0.85  # Adam: how slowly the mean gradient is forgotten
    beta2: float = 0.99  # Adam: how slowly its mean square is forgotten
    decay: float = 0.0  # AdamW: share of each parameter lost per step and unit of rate
    kernel: Kernel = "numpy"
    library: ctypes.CDLL | None = None  # for the kernel "c"
    steps_done: int = 0
    mean: np.ndarray = field(init=False)  # (P,)
    square: np.ndarray = field(init=False)  # (P,)

    def __post_init__(self) -> None:
        self.mean = np.zeros(self.n_parameters)
        self.square = np.zeros(self.n_parameters)

    # @learn:optimization.sgd
    # @viz:guide.training
    def step(self, parameters: np.ndarray, gradient: np.ndarray, rate: float) -> None:
        """One step on float64 arrays (P,); changes `parameters` in place."""
        self.steps_done += 1
        if self.kind == "sgd":
            parameters -= rate * gradient
            return
        settings = {
            "rate": rate,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "rest1": 1 - self.beta1,
            "rest2": 1 - self.beta2,
            "share1": 1 - self.beta1**self.steps_done,  # both means began at 0: undo that bias
            "share2": 1 - self.beta2**self.steps_done,
            "epsilon": EPSILON,
            "keep": 1 - rate * self.decay if self.kind == "adamw" else 1.0,
        }
        if self.kernel == "c" and self.library:
            adam_in_c(self.library, parameters, gradient, self.mean, self.square, **settings)
        elif self.kernel == "python":
            adam_in_python(parameters, gradient, self.mean, self.square, settings)
        else:
            adam_in_numpy(parameters, gradient, self.mean, self.square, settings)

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint must hold besides steps_done."""
        return {} if self.kind == "sgd" else {"mean": self.mean, "square": self.square}


# @learn:optimization.adamw
def adam_in_python(
    parameters: np.ndarray,
    gradient: np.ndarray,
    mean: np.ndarray,
    square: np.ndarray,
    k: dict[str, float],
) -> None:
    """microgpt.py's formula, number by number."""
    columns = (a.tolist() for a in (parameters, gradient, mean, square))
    for i, (p, g, m, s) in enumerate(zip(*columns, strict=True)):
        mean[i] = m = k["beta1"] * m + k["rest1"] * g
        g_squared = g**2 if abs(g) < 1e150 else g * g  # Python's ** raises where libm gives inf
        square[i] = s = k["beta2"] * s + k["rest2"] * g_squared
        step = k["rate"] * (m / k["share1"]) / ((s / k["share2"]) ** 0.5 + k["epsilon"])
        parameters[i] = k["keep"] * p - step


def adam_in_numpy(
    parameters: np.ndarray,
    gradient: np.ndarray,
    mean: np.ndarray,
    square: np.ndarray,
    k: dict[str, float],
) -> None:
    """One Adam step over whole arrays, in place."""
    mean *= k["beta1"]
    mean += k["rest1"] * gradient
    square *= k["beta2"]
    square += k["rest2"] * (gradient * gradient)
    size = np.sqrt(square / k["share2"])
    size += k["epsilon"]
    step = mean * (k["rate"] / k["share1"])
    step /= size
    if k["keep"] != 1.0:
        parameters *= k["keep"]
    parameters -= step
