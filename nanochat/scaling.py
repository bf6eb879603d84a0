"""The one dial: --depth sets width, heads, batch and horizon; a plan says what a run will cost.

Called by pretrain.py. Read: model_config -> count_parameters -> flops_per_token -> Plan.
C channels, L layers, V vocabulary, T context.
Source of the rules: nanochat's own scaling runs (width = 64 x depth, 12 tokens a parameter).
"""

from dataclasses import dataclass

import torch

from nanochat.device import has_fast_bf16
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig, classic

REFERENCE_DEPTH, REFERENCE_BATCH_TOKENS = 12, 2**19  # where the learning rates were found


class BadPlan(UserError):
    """The sizes asked for do not fit together."""


# @learn:optimization.scaling_laws
# @learn:architecture.gqa
def model_config(
    depth: int,
    vocab_size: int,
    sequence_len: int,
    *,
    aspect_ratio: int = 64,
    head_size: int = 128,
    kv_share: int = 1,
    window_pattern: str = "L",
    mlp: str = "relu2",
    preset: str = "modern",
) -> GPTConfig:
    """The dial -> every size. `kv_share` query heads share one key/value head."""
    if depth < 1 or sequence_len < 2:
        raise BadPlan(
            f"depth {depth}, context {sequence_len}: both must be positive (context >= 2)"
        )
    if preset not in ("modern", "classic"):
        raise BadPlan(f"preset {preset}: choose modern or classic")
    width = -(-depth * aspect_ratio // head_size) * head_size
    heads = width // head_size
    if heads % kv_share:
        raise BadPlan(f"{heads} heads do not divide by --kv-share {kv_share}")
    config = GPTConfig(
        sequence_len=sequence_len,
        vocab_size=vocab_size,
        n_layer=depth,
        n_head=heads,
        n_kv_head=heads // kv_share,
        n_embd=width,
        window_pattern=window_pattern,
        mlp=mlp,
    )
    return classic(config) if preset == "classic" else config


@dataclass(frozen=True)
class Sizes:
    """Parameters by what they do."""

    total: int
    matrices: int  # inside the blocks, plus the head: what every token is multiplied with
    tables: int  # embeddings, looked up rather than multiplied


def count_parameters(config: GPTConfig) -> Sizes:
    """Count without allocating anything (the model is built on the meta device)."""
    with torch.device("meta"):
        model = GPT(config)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    tables = sum(n for name, n in sizes.items() if name.startswith(("embed.", "values.")))
    matrices = sum(n for name, n in sizes.items() if name.startswith(("blocks.", "head.")))
    return Sizes(sum(sizes.values()), matrices, tables)


def flops_per_token(config: GPTConfig, causal: bool = False) -> int:
    """Forward and backward: 6 for each weight multiplied, 12 C keys for each key looked at.

    Counts a whole window for every token, as most published figures do; `causal` only the keys
    that are there and visible: on average half of the context, and a window that is still filling.
    """
    T = config.sequence_len
    windows = [min(window, T) for window in config.windows()]
    seen = sum(mean_keys(T, window) for window in windows) if causal else sum(windows)
    return 6 * count_parameters(config).matrices + round(12 * config.n_embd * seen)


def mean_keys(T: int, window: int) -> float:
    """How many keys a token sees, itself included, on average over the places 0 to T - 1.

    >>> mean_keys(4, 4), mean_keys(4, 1)  # 1, 2, 3, 4 and 1, 2, 2, 2
    (2.5, 1.75)
    """
    short = min(window, T)  # places that see less than a whole window
    return (short * (short + 1) / 2 + (T - short) * (window + 1)) / T


def flops_share(
    config: GPTConfig, tokens_per_s: float, peak_tflops: float | None
) -> dict[str, float]:
    """Model FLOPs over the hardware's peak ("MFU"), with both ways to count attention."""
    if peak_tflops is None:
        return {}
    counts = {"mfu": flops_per_token(config), "mfu_causal": flops_per_token(config, causal=True)}
    return {
        name: round(tokens_per_s * flops / (peak_tflops * 1e12), 4)
        for name, flops in counts.items()
    }


def auto_batch_tokens(config: GPTConfig, ratio: float) -> int:
    """Tokens an optimizer step: the nearest power of two of B_ref (D / D_ref)^0.383."""
    reference = model_config(REFERENCE_DEPTH, 32768, 2048)
    horizon = ratio * count_parameters(config).matrices
    horizon_reference = ratio * count_parameters(reference).matrices
    exact = REFERENCE_BATCH_TOKENS * (horizon / horizon_reference) ** 0.383
    return 2 ** round(torch.tensor(exact).log2().item())


# @learn:optimization.scaling_laws
def batch_lr_scale(batch_tokens: int) -> float:
    """Larger batches carry less noise, so the rate grows with the square root of the batch."""
    return (batch_tokens / REFERENCE_BATCH_TOKENS) ** 0.5


@dataclass(frozen=True)
class Plan:
    """What a run will take, before it starts."""

    sizes: Sizes
    flops_per_token: int
    steps: int
    batch_tokens: int
    memory_mb: float
    seconds: float

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_tokens

    def record(self) -> dict[str, float]:
        """The plan for a program."""
        return {
            "parameters": self.sizes.total,
            "matrix_parameters": self.sizes.matrices,
            "flops_per_token": self.flops_per_token,
            "steps": self.steps,
            "batch_tokens": self.batch_tokens,
            "tokens": self.tokens,
            "memory_mb": round(self.memory_mb),
            "seconds": round(self.seconds, 1),
        }

    def text(self) -> str:
        """The plan for a person."""
        minutes = self.seconds / 60
        return "\n".join(
            (
                f"parameters   {self.sizes.total:,} ({self.sizes.matrices:,} in matrices, "
                f"{self.sizes.tables:,} in tables)",
                f"computation  {self.flops_per_token / 1e6:,.1f} MFLOP a token",
                f"steps        {self.steps:,} of {self.batch_tokens:,} tokens: "
                f"{self.tokens:,} tokens",
                f"memory       about {self.memory_mb:,.0f} MB",
                f"time         about {minutes:,.1f} minutes at this machine's measured speed",
            )
        )


def make_plan(
    config: GPTConfig,
    steps: int,
    rows: int,
    accumulation: int,
    device: torch.device,
    gflops: float,
) -> Plan:
    """Estimate memory and time from the sizes and the measured GEMM speed of this machine.

    `rows` is the number of sequences in one forward pass; `gflops` that of the training format.
    """
    sizes, per_token = count_parameters(config), flops_per_token(config)
    tokens = rows * config.sequence_len
    batch = tokens * accumulation
    # Muon's five steps on an (M, N) matrix cost about 5 (4 m^2 n + 2 m^3), m the smaller side.
    C = config.n_embd
    muon = config.n_layer * 5 * (4 * 6 * C**3 + 2 * 4 * C**3 + 8 * 4 * C**3)
    seconds = steps * (batch * per_token + muon) / (gflops * 1e9 * SHARE_OF_GEMM)
    width = 2 if has_fast_bf16(device) else 4
    activations = tokens * config.n_layer * C * width * ACTIVATIONS_PER_LAYER
    weights = sizes.total * 4 * 4  # weight, gradient, two moments
    memory = (activations + weights) / 1e6 + IMPORT_MB
    return Plan(sizes, per_token, steps, batch, memory, seconds)


SHARE_OF_GEMM = 0.45  # what the whole step reaches of the bare product, measured at depth 4
ACTIVATIONS_PER_LAYER = 34  # numbers kept per token and channel, measured at depth 4
IMPORT_MB = 230  # the interpreter with torch loaded
