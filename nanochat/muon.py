"""Muon: momentum whose update is made orthogonal, so that every direction learns equally fast.

Called by optimizers.py for the matrices inside the blocks. Read: POLAR_EXPRESS -> orthogonalize ->
Muon.step. Matrices of one shape are stacked and updated together: K matrices of M rows, N columns.
Sources: Muon (Jordan 2024), Polar Express (Amsel 2025), NorMuon (Li 2025), cautious weight decay.
"""

import torch
from torch import Tensor, nn

from nanochat.distributed import World
from nanochat.sharding import Update, Whole

# Five quintic steps, each the best for the singular values the one before leaves over.
# @learn:optimization.polar_express
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


# @learn:optimization.polar_express
def orthogonalize(x: Tensor) -> Tensor:
    """(K, M, N) -> the nearest matrices whose singular values are all 1 (to a few percent).

    Runs in the format of `x`. Each step is X <- aX + (bA + cA^2)X with A = X X^T, always built on
    the smaller side.
    """
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT  # (K, m, m), m the smaller side
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return x.mT if tall else x


# @learn:optimization.muon
class Muon:
    """One stack per shape. `dtype` is the format of the orthogonalisation (bf16 where it is fast).

    State: `momentum` (K, M, N), and `mean_square` (K, M, 1) or (K, 1, N), the running mean square
    that evens out rows (columns where the matrix is wide). `shards` says which of the K matrices
    are updated in this process; only their state is here.
    """

    variance_decay = 0.9

    def __init__(
        self,
        named: dict[str, nn.Parameter],
        lr: float,
        dtype: torch.dtype,
        shards: Whole | None = None,
    ) -> None:
        self.lr, self.dtype = lr, dtype
        self.shards = shards or Whole(World())
        self.names: dict[str, list[str]] = {}
        for name, parameter in named.items():
            self.names.setdefault("x".join(map(str, parameter.shape)), []).append(name)
        self.params = named
        self.momentum: dict[str, Tensor] = {}
        self.mean_square: dict[str, Tensor] = {}
        for shape, names in self.names.items():
            rows, columns = named[names[0]].shape
            like = self.shards.rows(named[names[0]])
            own = self.shards.matrices(len(names))
            count = own.stop - own.start
            spread = (count, rows, 1) if rows >= columns else (count, 1, columns)
            self.momentum[shape] = like.new_zeros(count, rows, columns)
            self.mean_square[shape] = like.new_zeros(spread)

    def stacks(self) -> list[list[nn.Parameter]]:
        """The matrices of each shape."""
        return [[self.params[name] for name in names] for names in self.names.values()]

    @torch.no_grad()
    def step(self, lr_scale: float, momentum: float, weight_decay: float) -> None:
        """Update every matrix from its gradient."""
        pending: list[tuple[float, Update]] = []
        for shape, weights in zip(self.names, self.stacks(), strict=True):
            grad = self.shards.stacked_grads(weights)  # (K, M, N), ours of them
            update = self._direction(shape, grad, momentum)
            rows, columns = grad.shape[-2:]
            lr = self.lr * lr_scale * max(1.0, rows / columns) ** 0.5
            pending.append((lr, self.shards.spread(update, weights)))
            if len(pending) > self.shards.in_flight:
                apply(*pending.pop(0), weight_decay)
        for lr, changes in pending:
            apply(lr, changes, weight_decay)

    # @learn:optimization.momentum
    def _direction(self, shape: str, grad: Tensor, momentum: float) -> Tensor:
        """Gradient (K, M, N) -> orthogonal, row-balanced update of the same shape."""
        buffer = self.momentum[shape]
        buffer.lerp_(grad, 1 - momentum)
        nesterov = grad.lerp_(buffer, momentum)
        x = nesterov.to(self.dtype)
        row_norm = x.norm(dim=-1, keepdim=True)  # give every row the mean length first
        x = x * (row_norm.mean(dim=-2, keepdim=True) / (row_norm + 1e-7))
        x = orthogonalize(x).float()
        target = min(grad.shape[-2:]) ** 0.5
        x *= target / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        # NorMuon: divide by the running size of each row, keep the total length
        before = x.norm(dim=(-2, -1), keepdim=True)
        mean_square = self.mean_square[shape]
        axis = -1 if mean_square.size(-1) == 1 else -2
        mean_square.lerp_(x.square().mean(dim=axis, keepdim=True), 1 - self.variance_decay)
        x /= mean_square.sqrt() + 1e-10
        return x.mul_(before / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7))

    def state_dict(self) -> dict[str, Tensor]:
        """All averages, whole, as a checkpoint keeps them."""
        state = {}
        for shape, names in self.names.items():
            for what, own in (("momentum", self.momentum), ("mean_square", self.mean_square)):
                state[f"muon.{shape}.{what}"] = self.shards.whole(own[shape], len(names))
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for shape in self.names:
            for what, own in (("momentum", self.momentum), ("mean_square", self.mean_square)):
                own[shape].copy_(self.shards.own(state[f"muon.{shape}.{what}"]))


def apply(lr: float, changes: Update, weight_decay: float) -> None:
    """Take the step, and decay each weight only where the step and the decay agree."""
    for weight, change in changes:
        if weight_decay:
            agree = (change * weight) >= 0
            weight.addcmul_(weight, agree, value=-lr * weight_decay)
        weight.sub_(change, alpha=lr)
