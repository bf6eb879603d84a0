"""Turn scores into a next token, for many rows at once, each with its own settings and dice.

Called by engine.py once per step. Read: Sampling -> distribution -> keep_top_k -> keep_top_p ->
draw -> sample -> choose -> narrow. B batch (rows), V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.errors import UserError

COLDEST = 1e-30  # a colder temperature divides like this one: float32 ends near 1e38
SEED_LIMIT = 2**63


class BadSampling(UserError):
    """A sampling setting is outside what can be computed."""


class BrokenScores(UserError):
    """The model returned NaN or infinite scores."""


BROKEN = (
    "the model's scores are not finite numbers: the checkpoint is damaged or its training "
    "diverged; load an earlier one"
)


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn. Same prompt, same seed, same answer: alone or in a batch."""

    max_tokens: int = 256  # at most this many new tokens, results of tools included
    temperature: float = 0.6  # 0 takes the best token; 1 the model's own odds; more is wilder
    top_k: int = 50  # draw from the k best tokens only; 0 is off
    top_p: float = 1.0  # draw from the fewest tokens that hold this share; 1 is off
    seed: int = 42  # another seed, another answer

    def __post_init__(self) -> None:
        _check(_whole(self.max_tokens) and self.max_tokens >= 1, self, "max_tokens", "1 or more")
        warm = _real(self.temperature) and self.temperature >= 0
        _check(warm, self, "temperature", "0 (always the best token) or more, and finite")
        _check(_whole(self.top_k) and self.top_k >= 0, self, "top_k", "0 (off) or more")
        share = _real(self.top_p) and 0 < self.top_p <= 1
        _check(share, self, "top_p", "more than 0 and at most 1 (off)")
        seeded = _whole(self.seed) and -SEED_LIMIT <= self.seed < SEED_LIMIT
        _check(seeded, self, "seed", "a whole number of 64 bits")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(fine: bool, sampling: Sampling, name: str, limit: str) -> None:
    if not fine:
        raise BadSampling(f"{name} is {getattr(sampling, name)!r}: it must be {limit}")


# @learn:inference.sampling
# @learn:foundations.softmax
# @learn:inference.temperature
def distribution(logits: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Scores (B, V) -> the probabilities (B, V) that rows with these settings draw from.

    Temperature first, then top-k, then top-p on what is left, as other engines do.
    A row with temperature 0 puts everything on its best token.
    """
    device = logits.device
    heat = torch.tensor([max(s.temperature, COLDEST) for s in samplings], device=device)  # (B,)
    scores = logits / heat[:, None]
    if any(s.top_k for s in samplings):
        scores = keep_top_k(scores, torch.tensor([s.top_k for s in samplings], device=device))
    if any(s.top_p < 1 for s in samplings):
        scores = keep_top_p(scores, torch.tensor([s.top_p for s in samplings], device=device))
    chances = scores.softmax(-1)
    if all(s.temperature for s in samplings):
        return chances
    cold = torch.tensor([s.temperature == 0 for s in samplings], device=device)
    best = torch.zeros_like(chances).scatter_(1, logits.argmax(-1, keepdim=True), 1.0)
    return torch.where(cold[:, None], best, chances)


# @learn:inference.top_k
def keep_top_k(scores: Tensor, k: Tensor) -> Tensor:
    """Set all but the k (B,) best scores of each row to -inf; k 0 keeps the row as it is.

    Tokens that tie with the k-th stay: which of two equals to drop would be an accident.
    """
    k = k.clamp(max=scores.size(-1))
    best = scores.topk(int(k.max())).values  # (B, K) falling
    floor = best.gather(1, (k - 1).clamp(min=0)[:, None])  # (B, 1) the k-th best score
    return scores.masked_fill((scores < floor) & (k > 0)[:, None], -torch.inf)


# @learn:inference.top_p
def keep_top_p(scores: Tensor, p: Tensor) -> Tensor:
    """Keep the fewest best tokens that together hold at least p (B,) of the probability.

    The best token always stays, and so do those that tie with the last one kept; p 1 is off.
    """
    ranked = scores.sort(-1, descending=True).values  # (B, V)
    chances = ranked.softmax(-1).double()
    ahead = chances.cumsum(-1) - chances  # (B, V) how much the better tokens hold
    # Nothing is ahead of the best: a p that rounds to 0 (5e-324 does in 32 bits) must not drop it.
    behind = (ahead >= p[:, None]) & (ahead > 0)
    floor = ranked.masked_fill(behind, torch.inf).amin(-1, keepdim=True)  # (B, 1)
    return scores.masked_fill((scores < floor) & (p < 1)[:, None], -torch.inf)


# @learn:foundations.probability
def draw(chances: Tensor, dice: Sequence[float]) -> Tensor:
    """One token of each row: chances (B, V), dice in [0, 1) -> ids (B,).

    The tokens lie side by side, each as wide as its chance; the die points at one of them. So a
    token costs one number, and a row needs nothing of what its neighbours draw.
    """
    edges = chances.double().cumsum(-1)  # (B, V) right edge of each token
    total = edges[:, -1:]
    point = torch.tensor(dice, dtype=torch.float64, device=chances.device)[:, None] * total
    # The largest die, 1 - 2**-53, times the total still rounds to less than the total.
    return torch.searchsorted(edges, point, right=True)[:, 0]


def sample(logits: Tensor, samplings: Sequence[Sampling], dice: Sequence[float]) -> list[int]:
    """Scores (B, V), settings and a number in [0, 1) for each row -> B token ids."""
    if broken_rows(logits):
        raise BrokenScores(BROKEN)
    return choose(logits, samplings, dice)


def choose(logits: Tensor, samplings: Sequence[Sampling], dice: Sequence[float]) -> list[int]:
    """As `sample`, where somebody has looked already whether the scores are finite."""
    if all(s.temperature == 0 for s in samplings):
        return logits.argmax(-1).tolist()
    if logits.device.type == "mps":  # it has no 64-bit floats
        logits = logits.cpu()
    scores, ids = narrow(logits, samplings)
    drawn = draw(distribution(scores, samplings), dice)  # (B,)
    return (drawn if ids is None else ids.gather(1, drawn[:, None])[:, 0]).tolist()


def broken_rows(logits: Tensor) -> set[int]:
    """Rows (of B) whose scores (B, V) are not all finite numbers; one look at the sums, mostly.

    >>> broken_rows(torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]))
    {1}
    """
    if bool(logits.sum().isfinite()):
        return set()
    return set((~logits.isfinite().all(-1)).nonzero().flatten().tolist())


def narrow(logits: Tensor, samplings: Sequence[Sampling]) -> tuple[Tensor, Tensor | None]:
    """Scores (B, V) -> those of the few tokens that top-k can keep (B, K), and their ids (B, K).

    They stay in the order of their ids, so a die points at the same token as in the whole row. All
    columns and None come back when a row draws from everything, or has a tie where K cuts.

    >>> narrow(torch.tensor([[4.0, 1.0, 9.0, 2.0]]), [Sampling(top_k=1)])
    (tensor([[4., 9.]]), tensor([[0, 2]]))
    """
    most = max(s.top_k for s in samplings)
    if most + 1 >= logits.size(-1) or any(s.top_k == 0 < s.temperature for s in samplings):
        return logits, None
    best, ids = logits.topk(most + 1)  # (B, K) falling
    if most and bool((best[:, -2] == best[:, -1]).any()):  # keep_top_k keeps all that tie
        return logits, None
    ids = ids.sort(-1).values
    return logits.gather(1, ids), ids
