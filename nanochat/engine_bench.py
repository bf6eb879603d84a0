"""How fast the engine writes, without a network: tokens a second for one answer and for many.

Called by scripts/bench.py: `nanochat bench engine`. The scheduler of the server runs in this thread
on a model of the sizes asked for, with random weights. Prompts are read first and not counted;
rounds of one and of many answers, and a bare matrix product, take turns, because speed drifts.
Read: EngineBenchSettings -> bench_engine -> write_together.
"""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from nanochat.device import gemm_gflops, use_threads
from nanochat.engine import Engine
from nanochat.engine_kernel import KERNELS, kernel_for
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.load_host import pair_tokenizer
from nanochat.sampling import Sampling
from nanochat.scaling import model_config
from nanochat.scheduler import Deaf, Ended, Request, Scheduler, SchedulerSettings
from nanochat.tokenizer import SPECIALS
from nanochat.train_loop import seeded


class CannotMeasure(UserError):
    """The answers ended before anything could be measured."""


@dataclass(frozen=True)
class EngineBenchSettings:
    """What is written, and by which step."""

    depth: int = 4  # layers
    channels: int = 256  # width, in steps of the head size
    head_size: int = 128  # channels of an attention head
    vocab: int = 4096  # vocabulary, tokens
    context: int = 1024  # context, tokens
    prompt: int = 256  # tokens of each prompt; all prompts differ
    tokens: int = 128  # tokens written after it
    rows: int = 16  # answers written together
    temperature: float = 0.0  # 0 takes the best token; the peers' figures are greedy
    top_k: int = 50  # with a temperature: draw from the k best
    kernel: str = "auto"  # auto | c | torch: who computes a step
    rounds: int = 5  # rounds of each; the median counts
    threads: int = 2  # processor threads
    json: bool = False  # print one JSON object as the last line


def bench_engine(settings: EngineBenchSettings) -> dict[str, Any]:
    """Tokens a second with one row and with `rows`, and per 10^9 operations a second of a product.

    `gemm_share` travels between machines: a step's work is products, so is the yardstick's.
    """
    if settings.kernel not in KERNELS:
        raise CannotMeasure(f"--kernel {settings.kernel}: choose {', '.join(KERNELS)}")
    use_threads(settings.threads)
    engine = random_engine(settings)
    many, one, gflops = [], [], []
    for _ in range(settings.rounds + 1):  # the first round warms up
        gflops.append(gemm_gflops(torch.device("cpu")))
        many.append(write_together(engine, settings, settings.rows))
        one.append(write_together(engine, settings, 1))
    gemm = statistics.median(gflops[1:])
    tokens_per_s = statistics.median(many[1:])
    return {
        "tokens_per_s": round(tokens_per_s, 1),
        "tokens_per_s_one_row": round(statistics.median(one[1:]), 1),
        "ratio": round(tokens_per_s / statistics.median(one[1:]), 2),
        "step_ms": round(1e3 * settings.rows / tokens_per_s, 3),
        "gemm_gflops_fp32": round(gemm, 1),
        "gemm_share": round(tokens_per_s / gemm, 2),
        "kernel": "torch" if engine.kernel is None else "c",
        "rows": settings.rows,
        "threads": torch.get_num_threads(),
    }


def random_engine(settings: EngineBenchSettings) -> Engine:
    """Random weights that never choose a special token, so that no answer ends early."""
    config = model_config(
        settings.depth,
        settings.vocab,
        settings.context,
        aspect_ratio=-(-settings.channels // settings.depth),
        head_size=settings.head_size,
    )
    model = GPT(config).eval()
    model.init_weights(seeded(0, "weights"))
    with torch.no_grad():
        model.head.weight[settings.vocab - len(SPECIALS) :] = 0  # never among the best 50
    return Engine(model, pair_tokenizer(settings.vocab), kernel_for(model, settings.kernel))


def write_together(engine: Engine, settings: EngineBenchSettings, rows: int) -> float:
    """Tokens a second while `rows` answers are written, from the last prompt read to the first end.

    Raises CannotMeasure when an answer broke or too few steps were left.
    """
    limit = settings.prompt + settings.tokens + 2 * rows
    if limit >= settings.context:
        raise CannotMeasure(f"{limit} tokens in a context of {settings.context}: raise --context")
    plan = SchedulerSettings(rows=rows, read_tokens=settings.prompt, blocks=0)
    scheduler = Scheduler(engine, plan)
    dice = seeded(rows, "prompts")
    ordinary = settings.vocab - len(SPECIALS)
    for row in range(rows):
        prompt = torch.randint(ordinary, (settings.prompt,), generator=dice).tolist()
        sampling = Sampling(
            settings.tokens + 2 * rows, settings.temperature, settings.top_k, seed=row
        )
        scheduler.submit(Request(engine.answer(prompt, sampling), Deaf()))
    while len(scheduler.running) < rows:
        if any(isinstance(n, Ended) or n.event.finish_reason for n in scheduler.step()):
            raise CannotMeasure("an answer ended while other prompts were read")
    written, started = 0, time.perf_counter()
    for _ in range(settings.tokens):
        news = scheduler.step()
        if len(news) != rows or any(isinstance(n, Ended) for n in news):
            raise CannotMeasure("an answer ended before the measurement did")
        written += len(news)
    return written / (time.perf_counter() - started)
