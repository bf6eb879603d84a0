"""Is a trace true? The identities that the numbers of one forward pass must keep.

Called by `nanochat trace`, the bridge and the tests. Each check returns a residual: the largest
distance between two ways to the same number. Needs a full trace in fp32 of a whole pass without
edits. Read: CHECKS -> residual_sum -> patterns -> head_results -> logits_again -> check_trace.
"""

import torch
from torch import Tensor

from nanochat.gpt import GPT, norm
from nanochat.trace_format import Trace

TOLERANCE = {
    "residual contributions sum to the residual": 1e-5,
    "pattern rows sum to one": 1e-5,
    "patterns look neither ahead nor out of the window": 0.0,
    "heads sum to what attention writes": 1e-4,
    "logits follow from the last residual": 1e-4,
}


def far(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest number where that is above one."""
    return float((a - b).abs().max() / b.abs().max().clamp(min=1))


@torch.no_grad()
def residual_sum(model: GPT, trace: Trace) -> float:
    """Every layer's residual from its start and what attention and MLP wrote, and the last one
    as a sum of x0 and all writings, each times the scales it went through."""
    L, config = model.config.n_layer, model.config
    r = model.residual_scale if config.residual_scalars else torch.ones(L)
    a = model.input_scale if config.residual_scalars else torch.zeros(L)
    x0 = trace.tensor("x0")
    parts, worst, saved = [x0], 0.0, None
    for i in range(L):
        block = f"blocks.{i}."
        parts = [r[i] * part for part in parts] + [a[i] * x0]
        worst = max(worst, far(torch.stack(parts).sum(0), trace.tensor(block + "resid_pre")))
        parts.append(trace.tensor(block + "attn_out"))
        worst = max(worst, far(torch.stack(parts).sum(0), trace.tensor(block + "resid_mid")))
        parts.append(trace.tensor(block + "mlp_out"))
        worst = max(worst, far(torch.stack(parts).sum(0), trace.tensor(block + "resid_post")))
        if i == L // 2:
            saved = torch.stack(parts).sum(0)
    if config.backout and saved is not None:
        parts.append(-model.backout_scale * saved)
    return max(worst, far(torch.stack(parts).sum(0), trace.tensor("resid_final")))


def patterns(model: GPT, trace: Trace) -> tuple[float, float]:
    """(how far a row's sum is from 1, the largest weight on a key that may not be seen)."""
    uneven, leaked = 0.0, 0.0
    for i, window in enumerate(model.config.windows()):
        pattern = trace.tensor(f"blocks.{i}.attn.pattern")  # (H, T, S)
        T = pattern.size(1)
        distance = torch.arange(T)[:, None] - torch.arange(T)
        hidden = (distance < 0) | (distance > window)
        uneven = max(uneven, float((pattern.sum(-1) - 1).abs().max()))
        leaked = max(leaked, float((pattern * hidden).abs().max()))
    return uneven, leaked


def head_results(model: GPT, trace: Trace) -> float:
    """How far the heads' results are from adding up to what attention gave."""
    worst = 0.0
    for i in range(model.config.n_layer):
        heads = trace.tensor(f"blocks.{i}.attn.result").sum(1)  # (T, H, C) -> (T, C)
        worst = max(worst, far(heads, trace.tensor(f"blocks.{i}.attn_out")))
    return worst


@torch.no_grad()
def logits_again(model: GPT, trace: Trace) -> float:
    """From the last residual stream, by matrix and softcap alone."""
    x = norm(trace.tensor("resid_final"))
    raw = (x @ model.head.weight.mT)[:, : model.config.vocab_size]
    cap = model.config.softcap
    logits = cap * torch.tanh(raw / cap) if cap else raw
    return far(logits, trace.tensor("logits"))


def check_trace(model: GPT, trace: Trace) -> dict[str, float]:
    """Name of the invariant -> residual, for a whole pass traced at level full in f32."""
    uneven, leaked = patterns(model, trace)
    values = (
        residual_sum(model, trace),
        uneven,
        leaked,
        head_results(model, trace),
        logits_again(model, trace),
    )
    return dict(zip(TOLERANCE, values, strict=True))


def broken(residuals: dict[str, float]) -> list[str]:
    return [name for name, far_off in residuals.items() if not far_off <= TOLERANCE[name]]
