"""CORE: can a pretrained model, never taught to chat, complete what it should?  (DCLM, Li 2024)

Called by scripts/base_eval.py; core_eval_bundle.py reads the tasks. Three kinds of task:
    multiple_choice     one query, several endings: is the right one the likeliest, token by token?
    schema              several beginnings, one ending: after which is it the likeliest?
    language_modeling   one context, one ending: is every token of it the model's first choice?
An example is a shared prefix and its branches. score_alone writes every branch out and reads it
whole, as the definition says; score_together reads a long prefix once for all branches, many
examples in a pass, and multiplies with the vocabulary only where a token is scored.
Read: Example -> score_alone -> Trunk and Branches (what attention sees) -> score_together ->
merged -> batches -> run_task -> centered. E examples, R branches, P prefix tokens, T branch tokens,
C channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.cross_entropy import capped_logits
from nanochat.gpt import GPT, norm

BATCH_TOKENS = 1024  # tokens in one pass on a processor: more than its caches hold is slower
GPU_BATCH_TOKENS = 65_536
HEAD_ROWS = 2048  # positions multiplied with the vocabulary at once


@dataclass(frozen=True)
class Example:
    """A shared beginning and the ways it may go on; the last `scored[i]` tokens of branch i count.

    `gold` is the right branch; an example with one branch asks whether the model would say it.
    """

    prefix: list[int]
    branches: list[list[int]]
    scored: list[int]
    gold: int = 0

    def cropped(self, limit: int) -> "Example":
        """The same, cut on the left until prefix and longest branch fit the model's context."""
        longest = max(map(len, self.branches))
        room = max(1, limit + 1 - longest)  # the last token is predicted, not read
        branches = [branch[-limit:] for branch in self.branches]
        scored = [min(n, len(b)) for n, b in zip(self.scored, branches, strict=True)]
        return Example(self.prefix[-room:], branches, scored, self.gold)

    @property
    def shares(self) -> bool:
        """Is reading the prefix once, and the branches behind it, worth a second pass?"""
        rows, branches = len(self.branches), sum(map(len, self.branches))
        saved = (rows - 1) * len(self.prefix)
        return saved > 0.3 * (rows * len(self.prefix) + branches)

    def trunks(self) -> list[list[int]]:
        """What the first pass reads: the prefix, or every branch behind a prefix of its own."""
        if self.shares:
            return [self.prefix]
        return [self.prefix + branch[:-1] for branch in self.branches]

    def fits(self, limit: int) -> bool:
        return len(self.prefix) + max(map(len, self.branches)) - 1 <= limit


@dataclass(frozen=True)
class Verdict:
    """Mean loss of each branch's scored tokens, and whether all of branch 0's were first choice."""

    losses: list[float]
    greedy: bool

    def right(self, example: Example) -> bool:
        if len(self.losses) == 1:
            return self.greedy
        return min(range(len(self.losses)), key=self.losses.__getitem__) == example.gold


@torch.inference_mode()
def score_alone(model: GPT, example: Example) -> Verdict:
    """The slower truth: every branch as a whole row, all positions against the vocabulary."""
    rows = [example.prefix + branch for branch in example.branches]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])  # (R, T)
    logits = model(ids[:, :-1].to(model.cos.device)).cpu()  # (R, T - 1, V)
    losses, greedy = [], False
    for number, (row, count) in enumerate(zip(rows, example.scored, strict=True)):
        end = len(row)
        guesses = logits[number, end - count - 1 : end - 1]  # (count, V)
        targets = torch.tensor(row[end - count :])
        losses.append(F.cross_entropy(guesses, targets).item())
        if number == 0:
            greedy = bool((guesses.argmax(-1) == targets).all())
    return Verdict(losses, greedy)


class Trunk:
    """The cache of the first pass: prefixes side by side, and it keeps their keys and values."""

    def __init__(self, model: GPT, length: int) -> None:
        self.device, self.windows = model.cos.device, model.config.windows()
        self.limit = model.config.sequence_len
        self.previous: Tensor | None = None
        self.place = torch.arange(length, device=self.device)[None]  # (1, P)
        self.keys: list[Tensor] = []  # for each layer (E, P, G, D)
        self.values: list[Tensor] = []

    def positions(self, count: int) -> Tensor:
        return self.place

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keep a layer's keys and values. No mask: every token sees those before it, by blocks."""
        self.keys.append(k)
        self.values.append(v)
        return k, v, None

    def advance(self, count: int) -> None:
        pass


class Branches:
    """The cache of the second pass: row r goes on from prefix owner[r], of `lengths[r]` tokens."""

    def __init__(self, trunk: Trunk, owner: Tensor, lengths: Tensor, previous: Tensor) -> None:
        self.trunk, self.owner, self.lengths = trunk, owner, lengths
        self.limit = trunk.limit
        self.previous: Tensor | None = previous  # (R, 1, C) the prefix's last embedding, for smear
        self.masks: dict[int, Tensor] = {}

    def places(self, count: int) -> Tensor:
        return self.lengths[:, None] + torch.arange(count, device=self.lengths.device)

    def positions(self, count: int) -> Tensor:
        return self.places(count).clamp(max=self.limit - 1)  # only padding stands beyond it

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Put each branch's keys and values behind those of the prefix it grows from."""
        keys = torch.cat((self.trunk.keys[layer][self.owner], k), dim=1)  # (R, P + T, G, D)
        values = torch.cat((self.trunk.values[layer][self.owner], v), dim=1)
        window = self.trunk.windows[layer]
        if window not in self.masks:
            self.masks[window] = self._mask(window, k.size(1))
        return keys, values, self.masks[window]

    def _mask(self, window: int, T: int) -> Tensor:
        """(R, 1, T, P + T): a token sees its own prefix without the padding, and its branch."""
        new = self.places(T)  # (R, T)
        old = self.trunk.place.expand(len(new), -1)  # (R, P)
        distance = new[:, :, None] - torch.cat((old, new), dim=1)[:, None]
        real = torch.cat((old < self.lengths[:, None], torch.ones_like(new, dtype=torch.bool)), 1)
        return ((distance >= 0) & (distance <= window) & real[:, None])[:, None]

    def advance(self, count: int) -> None:
        pass


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """(len(rows), longest): short rows end in zeros, which nothing real ever looks at."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)


@torch.inference_mode()
def score_together(model: GPT, examples: Sequence[Example]) -> list[Verdict]:
    """Like score_alone for each example, in two passes for all of them."""
    device = model.cos.device
    # 1) every prefix once; where little is shared, every branch along with its prefix
    trunks = [row for e in examples for row in e.trunks()]
    first = [0, *accumulate(len(e.trunks()) for e in examples)]  # example -> its first trunk
    ids = padded(trunks, device)  # (E, P)
    rows = [
        (first[number], branch)
        for number, e in enumerate(examples)
        if e.shares
        for branch in e.branches
    ]
    longer = any(len(branch) > 1 for _, branch in rows)
    trunk = Trunk(model, ids.size(1)) if longer else None
    hidden = [model.hidden(ids, trunk).flatten(0, 1)]  # [(E * P, C)]
    # 2) all tokens of the branches but the last, each row behind its own prefix
    T = max((len(branch) for _, branch in rows), default=1) - 1
    if trunk is not None:
        owner = torch.tensor([place for place, _ in rows], device=device)
        lengths = torch.tensor([len(trunks[place]) for place, _ in rows], device=device)
        last = norm(model.embed(ids[owner, lengths - 1]).to(model.dtype))[:, None]  # (R, 1, C)
        more = padded([branch[:-1] or [0] for _, branch in rows], device)  # (R, T)
        cache = Branches(trunk, owner, lengths, last)
        hidden.append(model.hidden(more, cache).flatten(0, 1))  # (R * T, C)
    # 3) for each scored token: where the vector stands that predicts it
    P, start, row = ids.size(1), ids.numel(), 0
    places: list[int] = []
    targets: list[int] = []
    for number, e in enumerate(examples):
        for which, (branch, count) in enumerate(zip(e.branches, e.scored, strict=True)):
            base = (first[number] + (0 if e.shares else which)) * P + len(e.prefix) - 1
            for j in range(len(branch) - count, len(branch)):
                behind = e.shares and j > 0  # read in the second pass
                places.append(start + row * T + j - 1 if behind else base + j)
                targets.append(branch[j])
            row += e.shares
    return verdicts(model, torch.cat(hidden)[places], torch.tensor(targets), examples)


def verdicts(model: GPT, x: Tensor, targets: Tensor, examples: Sequence[Example]) -> list[Verdict]:
    """Vectors (N, C) of all scored tokens, in the order of examples and branches -> verdicts."""
    losses, hits = [], []
    goals = targets.to(x.device)
    for piece, goal in zip(x.split(HEAD_ROWS), goals.split(HEAD_ROWS), strict=True):
        logits = capped_logits(
            piece, model.head.weight, model.config.softcap, model.config.vocab_size
        )
        losses.append(F.cross_entropy(logits, goal, reduction="none"))
        hits.append(logits.argmax(-1) == goal)
    nats, right = torch.cat(losses).cpu(), torch.cat(hits).cpu()
    found, at = [], 0
    for e in examples:
        means, greedy = [], False
        for number, count in enumerate(e.scored):
            means.append(nats[at : at + count].mean().item())
            if number == 0:
                greedy = bool(right[at : at + count].all())
            at += count
        found.append(Verdict(means, greedy))
    return found


def merged(examples: Sequence[Example]) -> tuple[list[Example], list[list[tuple[int, int]]]]:
    """Beginnings that several examples have in common are read once for all of them.

    Returns examples with other branches, and where each branch comes from: (example, branch).
    An option of a schema is all beginning but for its scored end; so the same story, told in two
    examples, is one beginning with two branches.
    """
    found: dict[tuple[int, ...], Example] = {}
    origins: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for number, e in enumerate(examples):
        for which, (branch, count) in enumerate(zip(e.branches, e.scored, strict=True)):
            start = 0 if e.shares else len(branch) - count
            prefix = [*e.prefix, *branch[:start]]
            # a lone branch is asked whether the model would say it: that is one answer an example
            key = (*prefix, -1 - number) if len(e.branches) == 1 else tuple(prefix)
            one = found.setdefault(key, Example(prefix, [], []))
            one.branches.append(branch[start:])
            one.scored.append(count)
            origins.setdefault(key, []).append((number, which))
    return list(found.values()), list(origins.values())


def batches(examples: Sequence[Example], tokens: int) -> Iterator[list[int]]:
    """Numbers of examples of similar length, so many that one pass reads at most `tokens`."""
    trunks = [e.trunks() for e in examples]
    order = sorted(range(len(examples)), key=lambda i: max(map(len, trunks[i])))
    batch: list[int] = []
    width = rows = behind = longest = 0
    for number in order:
        e = examples[number]
        size = max(map(len, trunks[number]))
        more = len(e.branches) if e.shares else 0
        branch = max(map(len, e.branches)) if e.shares else 0
        total = (rows + len(trunks[number])) * max(width, size)
        total += (behind + more) * max(longest, branch)
        if batch and total > tokens:
            yield batch
            batch, width, rows, behind, longest = [], 0, 0, 0, 0
        batch.append(number)
        width, longest = max(width, size), max(longest, branch)
        rows, behind = rows + len(trunks[number]), behind + more
    if batch:
        yield batch


def run_task(
    model: GPT,
    examples: Sequence[Example],
    batch_tokens: int = 0,
    one_at_a_time: bool = False,
) -> list[bool]:
    """Right or wrong for each example, each cut to the model's context first.

    `batch_tokens` 0 chooses by the device.
    """
    usual = BATCH_TOKENS if model.cos.device.type == "cpu" else GPU_BATCH_TOKENS
    limit = model.config.sequence_len
    examples = [e if e.fits(limit) else e.cropped(limit) for e in examples]
    if one_at_a_time:
        return [score_alone(model, e).right(e) for e in examples]
    together, origins = merged(examples)
    losses = [[0.0] * len(e.branches) for e in examples]
    greedy = [False] * len(examples)
    for batch in batches(together, batch_tokens or usual):
        found = score_together(model, [together[number] for number in batch])
        for number, verdict in zip(batch, found, strict=True):
            for (example, which), loss in zip(origins[number], verdict.losses, strict=True):
                losses[example][which] = loss
                greedy[example] = verdict.greedy  # read only where a branch stands alone
    scored = zip(losses, greedy, examples, strict=True)
    return [Verdict(each, said).right(e) for each, said, e in scored]


def centered(accuracy: float, chance: float) -> float:
    """0 for blind guessing, 1 for all right.

    >>> centered(0.25, 0.25), centered(1.0, 0.25), round(centered(0.5, 0.25), 3)
    (0.0, 1.0, 0.333)
    """
    return (accuracy - chance) / (1 - chance)
