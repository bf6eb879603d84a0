"""Draw new text from a checkpoint: its weights, its vocabulary, its random stream.

Called by `nanochat scalar sample`. The arithmetic is microgpt.py's, so a parity run continues its
random stream and draws the same names. Read: chances -> keep -> Sampler.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.scalar import checkpoint
from nanochat.scalar.checkpoint import BrokenCheckpoint
from nanochat.scalar.engine import make_engine
from nanochat.scalar.guards import check_prompt, check_sampling
from nanochat.scalar.settings import SampleSettings
from nanochat.scalar.shape import Shape
from nanochat.scalar.streams import Streams
from nanochat.scalar.text import CharTokenizer, read_documents


# @learn:inference.temperature
# @viz:guide.inference
def chances(scores: Sequence[float], temperature: float) -> list[float]:
    """Softmax of scores / temperature (V,), with microgpt.py's order of operations."""
    scaled = [score * temperature**-1 for score in scores]
    top = max(scaled)
    powers = [math.exp(score - top) for score in scaled]
    total = 0.0
    for power in powers:  # sum() of floats rounds differently since Python 3.12
        total += power
    return [power * total**-1 for power in powers]


def keep(probabilities: Sequence[float], top_k: int | None, top_p: float | None) -> list[float]:
    """Set to 0 all but the k likeliest, and all but the likeliest that together reach top_p.

    >>> keep([0.1, 0.6, 0.3], top_k=2, top_p=None)
    [0.0, 0.6, 0.3]
    """
    order = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    order = order[:top_k]
    if top_p is not None:
        running, n = 0.0, 0
        while n < len(order) and running < top_p:
            running += probabilities[order[n]]
            n += 1
        order = order[:n]
    kept = set(order)
    return [p if i in kept else 0.0 for i, p in enumerate(probabilities)]


class Sampler:
    """A model from a checkpoint, ready to draw from."""

    def __init__(self, settings: SampleSettings, run: Path, cache: Path | None) -> None:
        check_sampling(settings)
        arrays, state = checkpoint.newest(settings.checkpoint or run)
        self.settings, self.trained = settings, state["settings"]
        self.shape = Shape(**{f.name: state["shape"][f.name] for f in fields(Shape)})
        self.tokenizer = CharTokenizer(state["characters"], state["bos_last"])
        self._check_vocabulary(arrays)
        self.parameters = np.concatenate([arrays[name].ravel() for name in self.shape.matrices])
        self.prompt = self.tokenizer.ids(settings.prompt)
        check_prompt(self.prompt, self.shape.context)
        t = self.trained
        self.engine = make_engine(
            t["engine"], self.shape, self.shape.context, t["replay"], cache, t["device"], t["dtype"]
        )
        self.rng = self._stream(state)

    def _check_vocabulary(self, arrays: dict[str, Any]) -> None:
        rows = arrays["token"].shape[0]
        if rows != len(self.tokenizer):
            raise BrokenCheckpoint(
                f"the checkpoint's weights are for a vocabulary of {rows} tokens, its own list has"
                f" {len(self.tokenizer)}: train again"
            )
        if self.settings.data is None:
            return
        strange = set("".join(read_documents(self.settings.data))) - set(self.tokenizer.characters)
        if strange:
            raise BrokenCheckpoint(
                f"the checkpoint's vocabulary lacks {''.join(sorted(strange))!r} of"
                f" {self.settings.data}: train on that file first"
            )

    def _stream(self, state: dict[str, Any]) -> Any:
        if self.settings.seed is not None:
            return Streams(self.settings.seed)["sample"]
        streams = Streams(self.trained["seed"], self.trained["parity"])
        streams.restore(state["streams"])
        return streams["sample"]

    def draw(self) -> str:
        """One text: the prompt and what follows, until an end is drawn or the context is full."""
        s, bos = self.settings, self.tokenizer.bos
        tokens = [bos, *self.prompt]
        room = self.shape.context - len(self.prompt)
        for _ in range(min(room, s.max_new_tokens or room)):
            likely = chances(self.engine.scores(self.parameters, tokens), s.temperature)
            weights = keep(likely, s.top_k, s.top_p)
            token = self.rng.choices(range(len(weights)), weights)[0]
            if token == bos:
                break
            tokens.append(token)
        return self.tokenizer.decode(tokens)
