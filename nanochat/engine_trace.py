"""Trace a prompt and the tokens that follow it, and say what the trace cost and whether it is true.

Called by scripts/trace.py and serve/bridge_trace.py. Read: TraceRequest -> trace_prompt -> step ->
verify -> timings.

Step 0 is the whole prompt in one pass; each further step is one new token, decoded with a cache
that keeps every position (no ring), so that keys stand in the order of the text.
"""

import hashlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.kv_cache import KVCache
from nanochat.sampling import Sampling, sample
from nanochat.tokenizer import Tokenizer
from nanochat.trace import Dtype, Edit, TraceContext
from nanochat.trace_format import Level, Trace, save_trace
from nanochat.trace_invariants import check_trace

MAX_NEW_TOKENS = 32
LEVELS_TIMED: tuple[Level, ...] = ("stats", "full")


class PromptTooLong(UserError):
    """Prompt and new tokens do not fit the model's context, or the limit of a trace."""


@dataclass(frozen=True)
class TraceRequest:
    """What to trace, and how much of it to keep."""

    token_ids: tuple[int, ...]
    max_new_tokens: int = 0
    seed: int = 0
    temperature: float = 0.0
    names: tuple[str, ...] = ("*",)
    level: Level = "full"
    positions: tuple[int, ...] | None = None
    topk: int = 8
    dtype: Dtype = "f16"
    max_bytes: int = 8 << 20
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True)
class Traced:
    """A trace and what was found beside it."""

    trace: Trace
    tokens: list[int]  # prompt and new ones
    chances: list[list[tuple[int, float]]]  # the likeliest next tokens after each step
    max_logit_difference: float  # between step 0 and the same pass on the fast path


def model_hash(model: GPT) -> str:
    """One word for these weights."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(name.encode() + weight.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_request(model: GPT, request: TraceRequest) -> None:
    """Refuse a trace that would be empty or too long."""
    count, room = len(request.token_ids), model.config.sequence_len
    if not count:
        raise PromptTooLong("the prompt has no tokens: write something")
    if request.max_new_tokens > MAX_NEW_TOKENS or request.max_new_tokens < 0:
        raise PromptTooLong(
            f"{request.max_new_tokens} new tokens, limit {MAX_NEW_TOKENS}: ask for fewer"
        )
    if count + request.max_new_tokens > room:
        raise PromptTooLong(
            f"{count} tokens and {request.max_new_tokens} new ones, the model's context holds "
            f"{room}: shorten the prompt"
        )
    if not all(0 <= token < model.config.vocab_size for token in request.token_ids):
        raise PromptTooLong(f"token ids lie between 0 and {model.config.vocab_size - 1}")


@torch.inference_mode()
def trace_prompt(
    model: GPT,
    request: TraceRequest,
    about: dict[str, Any] | None = None,
    on_step: Callable[[int, int, list[tuple[int, float]]], None] = lambda step, token, chances: (
        None
    ),
) -> Traced:
    """Run the prompt and the new tokens under a trace. The same request gives the same bytes."""
    check_request(model, request)
    tokens = list(request.token_ids)
    plain = model(torch.tensor([tokens]))[0]  # (T, V) by the fast path, before any tap
    cache = KVCache(model.config, 1, len(tokens) + request.max_new_tokens, model.dtype, ring=False)
    context = TraceContext(
        model,
        names=request.names,
        positions=request.positions,
        level=request.level,
        dtype=request.dtype,
        max_bytes=request.max_bytes,
        mode="edit" if request.edits else "observe",
        edits=request.edits,
        topk=request.topk,
    )
    chances, dice = [], random.Random(str(request.seed))
    wish = Sampling(temperature=request.temperature, top_k=0, max_tokens=1, seed=request.seed)
    new, difference = tokens, 0.0
    with context:
        for step in range(request.max_new_tokens + 1):
            logits = model(torch.tensor([new]), cache=cache.view(0, 1))[0]  # (T, V)
            if step == 0:
                difference = float((logits - plain).abs().max())
            chances.append(likeliest(logits[-1]))
            on_step(step, new[-1], chances[-1])
            if step < request.max_new_tokens:
                new = sample(logits[-1:], [wish], [dice.random()])
                tokens = tokens + new
    c = model.config
    sizes = {"layers": c.n_layer, "heads": c.n_head, "channels": c.n_embd}
    notes: dict[str, Any] = {
        "model": {"hash": model_hash(model), **sizes},
        "seed": request.seed,
        "temperature": request.temperature,
        "tokens": tokens,
        "attention": "eager",
        "max_logit_difference": float(f"{difference:.3g}"),
        "edits": [vars(edit) for edit in request.edits],
    }
    return Traced(context.result(notes | (about or {})), tokens, chances, difference)


def likeliest(logits: torch.Tensor, count: int = 10) -> list[tuple[int, float]]:
    chances, ids = torch.softmax(logits.float(), -1).topk(min(count, len(logits)))
    return [(i, round(p, 6)) for i, p in zip(ids.tolist(), chances.tolist(), strict=True)]


@torch.inference_mode()
def verify(model: GPT, token_ids: Sequence[int]) -> dict[str, float]:
    """The invariants' residuals for a prompt: a full trace in fp32, checked and thrown away."""
    with TraceContext(model, level="full", dtype="f32", max_bytes=1 << 30) as trace:
        model(torch.tensor([list(token_ids)]))
    return check_trace(model, trace.result())


@torch.inference_mode()
def timings(model: GPT, token_ids: Sequence[int], rounds: int = 15) -> dict[str, float]:
    """Milliseconds of a plain forward pass and of the same pass traced, medians taken in turn.

    `stats` and `full` end when the figures, and at full the numbers in the file's format, are
    copied out of the model's tensors. `write` is what may follow in its own time: manifest,
    checksum, two files. One thread, as threads that wait for each other are most of a small pass.
    """
    ids = torch.tensor([list(token_ids)])
    seconds: dict[str, list[float]] = {"plain": [], "stats": [], "full": [], "write": []}
    clock, threads = time.perf_counter, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(rounds):
                start = clock()
                model(ids)
                seconds["plain"].append(clock() - start)
                for level in LEVELS_TIMED:
                    start = clock()
                    with TraceContext(model, level=level, max_bytes=1 << 30) as trace:
                        model(ids)
                    captured = trace.captured()
                    seconds[level].append(clock() - start)
                start = clock()
                save_trace(captured.written({}), Path(folder) / "trace")
                seconds["write"].append(clock() - start)
    finally:
        torch.set_num_threads(threads)
    medians = {name: 1000 * statistics.median(times) for name, times in seconds.items()}
    ratios = {f"{n}_ratio": medians[n] / medians["plain"] for n in LEVELS_TIMED}
    return {name: round(value, 3) for name, value in {**medians, **ratios}.items()}


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Tokens as a viewer shows them: id, text, bytes in hexadecimal."""
    found = []
    for i in ids:
        raw = tokenizer.decode_bytes([i])
        found.append({"id": i, "text": raw.decode("utf-8", "replace"), "bytes": raw.hex()})
    return found
