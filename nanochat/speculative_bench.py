"""How much faster speculative decoding writes text that repeats its prompt.

Called by scripts/bench.py: `nanochat bench speculative`. Plain and speculative runs take
turns, round by round, so that a busy machine slows both alike; the median ratio counts.
"""

import statistics
import time
from dataclasses import dataclass
from typing import Any

from nanochat.checkpoint import load_model
from nanochat.device import pick_device, use_threads
from nanochat.engine import Engine
from nanochat.sampling import Sampling
from nanochat.speculative import GUESSES, NgramDraft, Speculator

REPEATING = "1 + 1 = 2. 2 + 1 = 3. 3 + 1 = 4. 4 + 1 = 5. " * 4 + "1 + 1 ="


@dataclass(frozen=True)
class SpeculativeBenchSettings:
    """What to measure."""

    stage: str = "base"  # base | sft | rl
    tag: str = ""  # name of the run; empty: the newest
    prompt: str = REPEATING  # text that the model will go on repeating
    tokens: int = 192  # tokens to write
    guesses: int = GUESSES  # tokens guessed for each pass
    rounds: int = 5  # pairs of runs; the median counts
    device: str = "auto"  # auto | cpu | cuda | mps
    threads: int = 0  # processor threads; 0: one for each core
    json: bool = False  # print one JSON object as the last line


def bench_speculative(settings: SpeculativeBenchSettings) -> dict[str, Any]:
    """Tokens a second, plain and speculative, greedy, and how many guesses held."""
    use_threads(settings.threads)
    model, tokenizer, _ = load_model(
        settings.stage, settings.tag or None, pick_device(settings.device)
    )
    engine = Engine(model, tokenizer)
    prompt = [tokenizer.special("bos"), *tokenizer.encode(settings.prompt)]
    sampling = Sampling(max_tokens=settings.tokens, temperature=0)
    plain, guessed = [], []
    for _ in range(settings.rounds + 1):  # the first round warms up
        started = time.perf_counter()
        truth = [event.token for event in engine.stream(prompt, sampling)]
        plain.append(len(truth) / (time.perf_counter() - started))
        speculator = Speculator(engine, NgramDraft(), settings.guesses)
        started = time.perf_counter()
        written = [event.token for event in speculator.run(engine.answer(prompt, sampling))]
        guessed.append(len(written) / (time.perf_counter() - started))
    pairs = [fast / slow for slow, fast in zip(plain[1:], guessed[1:], strict=True)]
    tally = speculator.tally
    return {
        "plain_tokens_per_s": round(statistics.median(plain[1:]), 1),
        "speculative_tokens_per_s": round(statistics.median(guessed[1:]), 1),
        "speedup": round(statistics.median(pairs), 2),
        "same_tokens": written == truth,
        "tokens": len(written),
        "passes": tally.passes + 1,
        "guesses_accepted": round(tally.accepted / max(1, tally.guessed), 3),
    }
