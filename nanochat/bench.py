"""How fast one training step is here, beside the bare matrix product of the same minute.

Called by scripts/bench.py. Speed drifts on shared machines, so steps and products alternate and the
medians are compared: `gemm_share` is tokens/s for each 10^9 fp32 operations/s of a 2048^3 product,
a figure that travels between machines better than tokens/s.
"""

import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from nanochat.compiled import speed_up
from nanochat.device import (
    gemm_gflops,
    gpu_name,
    gpu_peak_memory_mb,
    peak_bf16_tflops,
    peak_memory_mb,
    pick_device,
    pick_dtype,
)
from nanochat.gpt import GPT, GPTConfig
from nanochat.optimizers import Optimizers, OptimizerSettings
from nanochat.scaling import flops_per_token, flops_share, model_config
from nanochat.train_loop import seeded


@dataclass(frozen=True)
class TrainBenchSettings:
    """Time full training steps: forward, backward, Muon and AdamW, zeroed gradients, the loss."""

    depth: int = 4  # layers
    aspect_ratio: int = 64  # channels a layer
    head_size: int = 128  # channels of an attention head
    vocab: int = 4096  # vocabulary
    context: int = 512  # tokens in a row
    rows: int = 4  # rows in one step
    window_pattern: str = "L"  # S sees a quarter of the context, L all of it
    steps: int = 6  # steps in a round
    rounds: int = 5  # rounds, with a matrix product before each
    threads: int = 2  # processor threads
    device: str = "auto"  # auto | cpu | cuda | mps
    dtype: str = "auto"  # auto | fp32 | bf16
    compile: Literal["auto", "on", "off"] = "auto"  # auto: on CUDA
    recompute: bool = False  # compute activations again in the backward pass
    fp8: bool = False  # matrix products in 8 bits
    json: bool = False  # print one JSON object as the last line


@dataclass
class StepTimes:
    """Seconds of each part of the steps."""

    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    optimizer: list[float] = field(default_factory=list)

    def totals(self) -> list[float]:
        return [
            sum(parts) for parts in zip(self.forward, self.backward, self.optimizer, strict=True)
        ]


def bench_train(settings: TrainBenchSettings) -> dict[str, Any]:
    """Run the rounds and return the medians; peak memory is that of the steps alone."""
    torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    config = model_config(
        settings.depth,
        settings.vocab,
        settings.context,
        aspect_ratio=settings.aspect_ratio,
        head_size=settings.head_size,
        window_pattern=settings.window_pattern,
    )
    model = GPT(config, dtype)
    model.init_weights(seeded(0, "weights"))
    model.to(device)
    speed_up(model, settings.compile, settings.recompute, settings.fp8)
    optimizers = Optimizers(model, OptimizerSettings())
    shape = (settings.rows, settings.context + 1)
    ids = torch.randint(settings.vocab, shape, generator=seeded(0, "tokens")).to(device)
    run_steps(model, optimizers, ids, 3)  # warm up
    peak_mb, gpu_peak_mb = peak_memory_mb(), gpu_peak_memory_mb(device)
    gflops: list[float] = []
    times = StepTimes()
    for _ in range(settings.rounds):
        gflops.append(gemm_gflops(device))
        round_times = run_steps(model, optimizers, ids, settings.steps)
        for name, seconds in vars(round_times).items():
            getattr(times, name).extend(seconds)
    tokens_per_s = settings.rows * settings.context / statistics.median(times.totals())
    gemm = statistics.median(gflops)
    return {
        "tokens_per_s": round(tokens_per_s, 1),
        "gemm_gflops_fp32": round(gemm, 1),
        "gemm_share": round(tokens_per_s / gemm, 2),
        "peak_mb": round(peak_mb, 1),
        "dtype": str(dtype).removeprefix("torch."),
        "gflop_per_token": round(flops_per_token(config) / 1e9, 5),
        "step_ms": {
            name: round(1e3 * statistics.median(seconds), 1)
            for name, seconds in asdict(times).items()
        },
    } | on_gpu(config, device, tokens_per_s, gpu_peak_mb)


def on_gpu(
    config: GPTConfig, device: torch.device, tokens_per_s: float, peak_mb: float
) -> dict[str, Any]:
    """On CUDA: which GPU, its memory, and the share of its peak with both counts of attention."""
    name = gpu_name(device)
    if not name:
        return {}
    shares = flops_share(config, tokens_per_s, peak_bf16_tflops(name))
    return {"gpu": name, "gpu_peak_mb": round(peak_mb, 1)} | shares


def wait_for(device: torch.device) -> None:
    """Until a GPU has done what it was asked to: only then does a clock mean something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run_steps(model: GPT, optimizers: Optimizers, ids: torch.Tensor, count: int) -> StepTimes:
    """`count` full steps on the same tokens."""
    times, clock = StepTimes(), time.perf_counter
    for _ in range(count):
        start = clock()
        loss = model(ids[:, :-1], ids[:, 1:].contiguous())
        loss_value = loss.item()
        forward = clock()
        loss.backward()
        wait_for(ids.device)
        backward = clock()
        optimizers.step(1.0, 0.95, 1.0)
        optimizers.zero_grad()
        wait_for(ids.device)
        end = clock()
        assert loss_value == loss_value, "the loss is not a number"
        times.forward.append(forward - start)
        times.backward.append(backward - forward)
        times.optimizer.append(end - backward)
    return times
