"""Pretraining: learn to predict the next token of plain text.

Called by scripts/base_train.py. Read: PretrainSettings -> size_run -> plan_run -> prepare.
The script brings what lies below in the import order: the evaluation and the progress display.
"""

from dataclasses import dataclass, field
from typing import Literal

from nanochat.checkpoint import provenance
from nanochat.device import gemm_gflops, pick_device, pick_dtype
from nanochat.distributed import here
from nanochat.gpt import GPT, GPTConfig
from nanochat.optimizers import Optimizers, OptimizerSettings
from nanochat.scaling import (
    BadPlan,
    Plan,
    auto_batch_tokens,
    batch_lr_scale,
    count_parameters,
    make_plan,
    model_config,
)
from nanochat.schedules import Schedule
from nanochat.sharding import spread_model
from nanochat.tokenizer import Tokenizer
from nanochat.train_loop import Batches, LoopSettings, Run, seeded


@dataclass(frozen=True)
class PretrainSettings(LoopSettings):
    """Pretrain a model; --depth decides its size, its batch and how long it learns."""

    data: str = "tinyworld"  # tinyworld, a file, a folder, or a dataset of the Hugging Face hub
    depth: int = 4  # the one dial: layers; width is depth x aspect-ratio
    aspect_ratio: int = 64  # channels a layer
    head_size: int = 64  # channels of an attention head
    kv_share: int = 1  # query heads that share one key/value head
    context: int = 512  # tokens in a row
    max_context: int = 0  # longest conversation the model takes, tokens; 0: as context
    window_pattern: str = "L"  # S sees a quarter of the context, L all of it; tiled over layers
    mlp: str = "relu2"  # relu2 | swiglu
    preset: str = "modern"  # modern | classic (exports to Hugging Face's NanoChat)
    steps: int = 0  # optimizer steps; 0: from ratio
    ratio: float = 12.0  # tokens to learn from, for each parameter in matrices
    batch_tokens: int = 0  # tokens an optimizer step; 0: chosen by the dial
    rows: int = 8  # rows in one forward pass
    buffer: int = 1000  # documents to choose from when filling a row
    warmup_steps: int = 40  # steps in which the learning rate rises
    warmdown_share: float = 0.65  # share of the run in which the learning rate falls
    final_lr_share: float = 0.05  # down to this share
    eval_tokens: int = 65536  # validation tokens of one evaluation
    shard: Literal["zero2", "fsdp"] = "zero2"  # of several processes: fsdp divides the weights too
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)


@dataclass(frozen=True)
class Sizing:
    """What the dial decided."""

    config: GPTConfig
    accumulation: int
    steps: int
    batch_tokens: int


# @learn:optimization.scaling_laws
def size_run(settings: PretrainSettings, vocab_size: int) -> Sizing:
    """The dial and the overrides -> sizes, or BadPlan with what to change."""
    if 0 < settings.max_context < settings.context:
        raise BadPlan(
            f"rows of {settings.context} tokens for a model that takes {settings.max_context}; "
            "make --max-context at least --context"
        )
    config = model_config(
        settings.depth,
        vocab_size,
        settings.max_context or settings.context,
        aspect_ratio=settings.aspect_ratio,
        head_size=settings.head_size,
        kv_share=settings.kv_share,
        window_pattern=settings.window_pattern,
        mlp=settings.mlp,
        preset=settings.preset,
    )
    forward_tokens = settings.rows * settings.context
    batch_tokens = settings.batch_tokens or max(
        forward_tokens, auto_batch_tokens(config, settings.ratio)
    )
    if batch_tokens % forward_tokens:
        raise BadPlan(
            f"a step of {batch_tokens} tokens does not divide into passes of {settings.rows} rows "
            f"x {settings.context} tokens; make --batch-tokens a multiple of {forward_tokens}"
        )
    if batch_tokens // forward_tokens % here().size:
        raise BadPlan(
            f"a step of {batch_tokens // forward_tokens} passes of {settings.rows} rows does not "
            f"divide among {here().size} processes; make --rows smaller or --batch-tokens larger"
        )
    horizon = settings.ratio * count_parameters(config).matrices
    steps = settings.steps or max(1, round(horizon / batch_tokens))
    return Sizing(config, batch_tokens // forward_tokens, steps, batch_tokens)


def plan_run(settings: PretrainSettings, sizing: Sizing) -> Plan:
    """What the run will cost on this machine (measures its GEMM speed for a moment)."""
    device = pick_device(settings.device)
    speed = gemm_gflops(device, pick_dtype(settings.dtype, device))
    return make_plan(sizing.config, sizing.steps, settings.rows, sizing.accumulation, device, speed)


def prepare(
    settings: PretrainSettings, sizing: Sizing, tokenizer: Tokenizer, batches: Batches
) -> Run:
    """A run at its first step: fresh weights, fresh optimizer."""
    device = pick_device(settings.device)
    model = GPT(sizing.config, pick_dtype(settings.dtype, device))
    model.init_weights(seeded(settings.seed, "weights"))
    model.to(device)
    if settings.shard == "fsdp" and here().size > 1:
        spread_model(model, list(model.blocks))
    # The published rates are for large batches; overrides are taken as they are.
    scale = settings.optimizer.lr_scale
    if not settings.batch_tokens:
        scale *= batch_lr_scale(sizing.batch_tokens)
    optimizer = OptimizerSettings(**{**vars(settings.optimizer), "lr_scale": scale})
    return Run(
        stage="base",
        tag=settings.tag or f"d{settings.depth}",
        model=model,
        optimizers=Optimizers(model, optimizer),
        schedule=Schedule(
            sizing.steps, settings.warmup_steps, settings.warmdown_share, settings.final_lr_share
        ),
        batches=batches,
        accumulation=sizing.accumulation,
        provenance=provenance(sizing.config, settings, tokenizer)
        | {"data": batches.state_dict().get("documents", "")},
    )
