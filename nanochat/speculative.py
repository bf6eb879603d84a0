"""Guess several tokens cheaply, check them all in one pass of the model, keep those it agrees with.

Called by speculative_bench.py; a Speculator stands in for Engine.run where one answer is written.
A step of a small model costs nearly the same for one token as for eight, so every guess that holds
is a pass saved, and one that doesn't costs little.
    NgramDraft    what followed the last time these tokens stood there? Good on text that repeats.
    ModelDraft    a smaller model with the same vocabulary.
The answer is drawn from exactly the distribution that plain sampling draws from: a guess d that was
made with chance q(d) stays with chance min(1, p(d) / q(d)), else a token is drawn from what p has
more than q. Source: Leviathan 2023, Chen 2023; n-gram lookup: Saxena 2023.
Read: Draft -> NgramDraft -> ModelDraft -> verdict -> Speculator.run. V vocabulary, n guesses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import torch
from torch import Tensor

from nanochat.engine import Answer, Engine, TokenEvent
from nanochat.gpt import GPT, norm
from nanochat.kv_cache import KVCache
from nanochat.sampling import BrokenScores, Sampling, distribution, draw
from nanochat.tokenizer import VocabularyMismatch

GUESSES = 8  # tokens guessed for each pass of the model
LONGEST_GRAM = 3


class Draft(Protocol):
    """Whoever guesses."""

    def propose(self, tokens: Sequence[int], count: int) -> tuple[list[int], Tensor | None]:
        """Up to `count` guesses of what follows `tokens`, and the chances (n, V) they were drawn
        with; None means that there was no draw: each guess had chance 1."""
        ...


class NgramDraft:
    """What followed the last time the newest three (two, one) tokens stood in this text?"""

    def __init__(self) -> None:
        self.ends: dict[tuple[int, ...], int] = {}  # gram -> where the token after it stands
        self.seen: list[int] = []

    def propose(self, tokens: Sequence[int], count: int) -> tuple[list[int], Tensor | None]:
        """Up to `count` tokens that once followed the longest ending seen before; no chances."""
        if self.seen != list(tokens[: len(self.seen)]):  # another text
            self.ends, self.seen = {}, []
        for end in range(max(1, len(self.seen)), len(tokens)):  # grams with something behind them
            for size in range(1, min(LONGEST_GRAM, end) + 1):
                self.ends[tuple(tokens[end - size : end])] = end
        self.seen = list(tokens)
        for size in range(min(LONGEST_GRAM, len(tokens)), 0, -1):
            start = self.ends.get(tuple(tokens[-size:]))
            if start is not None:
                return list(tokens[start : start + count]), None
        return [], None


class ModelDraft:
    """A smaller model writes the guesses, one after the other, from its own cache."""

    def __init__(self, model: GPT, sampling: Sampling) -> None:
        self.model, self.sampling = model, sampling
        self.dice = Random(f"draft {sampling.seed}")
        device = next(model.parameters()).device
        self.context = model.config.sequence_len
        self.cache = KVCache(model.config, 1, self.context, model.dtype, device, ring=False)
        self.read: list[int] = []  # the tokens whose keys and values the cache holds

    def propose(self, tokens: Sequence[int], count: int) -> tuple[list[int], Tensor | None]:
        """Up to `count` tokens drawn from the small model, and its chances for each."""
        count = min(count, self.context - len(tokens))
        if count < 1:
            return [], None
        # Keep what is still true: the last guesses may have been refused.
        pairs = zip(self.read, tokens[:-1], strict=False)
        kept = next((n for n, (old, new) in enumerate(pairs) if old != new), None)
        kept = min(len(self.read), len(tokens) - 1) if kept is None else kept
        rewind(self.cache, self.model, tokens, kept)
        feed, guesses, chances = list(tokens[kept:]), [], []
        for _ in range(count):
            ids = torch.tensor([feed], device=self.cache.last.device)
            scores = self.model(ids, cache=self.cache.view(0, 1), last_only=True)[0]  # (1, V)
            chance = distribution(scores, [self.sampling])
            feed = draw(chance, [self.dice.random()]).tolist()
            guesses += feed
            chances.append(chance)
        self.read = [*tokens, *guesses[:-1]]
        return guesses, torch.cat(chances)  # (n, V)


def rewind(cache: KVCache, model: GPT, tokens: Sequence[int], length: int) -> None:
    """Shorten row 0 to the first `length` of `tokens`."""
    if length == 0:
        cache.reset(0)
    elif length != cache.lengths[0]:
        last = torch.tensor([tokens[length - 1]], device=cache.last.device)
        cache.rewind(0, length, norm(model.embed(last).to(model.dtype)))


# @learn:inference.speculative_decoding
def verdict(guess: int, p: Tensor, q: Tensor | None, dice: Random) -> tuple[bool, int]:
    """Does `guess` stay? If not, which token comes instead? p and q are chances (V,).

    Guess and replacement together are distributed exactly like a draw from p.
    """
    made = 1.0 if q is None else float(q[guess])
    if dice.random() * made < float(p[guess]):
        return True, guess
    left = p.clone() if q is None else (p - q).clamp(min=0)
    if q is None:
        left[guess] = 0
    return False, int(draw(left[None], [dice.random()])[0])


@dataclass
class Tally:
    """How well the guessing goes."""

    passes: int = 0  # of the large model, after the prompt
    guessed: int = 0
    accepted: int = 0
    tokens: int = 0


class Speculator:
    """Writes one answer like Engine.run, in fewer passes of the model."""

    def __init__(self, engine: Engine, draft: Draft, guesses: int = GUESSES) -> None:
        if isinstance(draft, ModelDraft):
            theirs, ours = draft.model.config.vocab_size, engine.model.config.vocab_size
            if theirs != ours:
                raise VocabularyMismatch(
                    f"the draft model has {theirs} tokens, the model {ours}: both must have been "
                    "trained with one tokenizer"
                )
        self.engine, self.draft, self.guesses = engine, draft, guesses
        self.tally = Tally()

    @torch.inference_mode()
    def run(self, answer: Answer) -> Iterator[TokenEvent]:
        """Every token of the answer in order; a tool's result is read along in one pass."""
        model, device = self.engine.model, next(self.engine.model.parameters()).device
        wanted = len(answer.prompt) + answer.sampling.max_tokens
        capacity = min(wanted, self.engine.context)
        cache = KVCache(model.config, 1, capacity, model.dtype, device, spare=self.guesses)
        feed = answer.prompt
        guesses: list[int] = []
        q: Tensor | None = None
        forced = False
        while True:
            ids = torch.tensor([feed], device=device)
            scores = model(ids, cache=cache.view(0, 1), last_only=not guesses)[0]  # (n + 1, V)
            if not bool(scores.isfinite().all()):
                raise BrokenScores("the model's scores are not finite numbers: load another one")
            p = distribution(scores, [answer.sampling] * len(scores))
            before = len(answer.tokens)
            yield from self._take(answer, guesses, p, q, forced, capacity)
            self.tally.tokens += len(answer.tokens) - before
            if answer.finish_reason:
                return
            # The newest token has not been read; of the others only those that stayed count.
            text = [*answer.prompt, *answer.tokens]
            rewind(cache, model, text, len(text) - 1)
            room = min(self.guesses, capacity - len(text))
            forced = bool(answer.waiting)
            if forced:
                guesses, q = list(answer.waiting)[:room], None
            else:
                guesses, q = self.draft.propose(text, room)
            feed = [text[-1], *guesses]
            self.tally.passes += 1

    def _take(
        self,
        answer: Answer,
        guesses: list[int],
        p: Tensor,
        q: Tensor | None,
        forced: bool,
        capacity: int,
    ) -> Iterator[TokenEvent]:
        """Guesses in order until one is refused; when all stay, the pass gives one token more."""
        for number, guess in enumerate(guesses):
            if forced:
                answer.waiting.popleft()
                stays, token = True, guess
            else:
                made = None if q is None else q[number]
                stays, token = verdict(guess, p[number], made, answer.dice)
                self.tally.guessed += 1
                self.tally.accepted += stays
            yield answer.accept(token, forced, capacity)
            if not stays or answer.finish_reason or (answer.waiting and not forced):
                return
        if not answer.waiting:
            token = int(draw(p[-1:], [answer.dice.random()])[0])
            yield answer.accept(token, False, capacity)
