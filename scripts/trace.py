"""Write down every activation of a prompt's way through the model: trace "Anna has" --out file.

Makes FILE.safetensors (the numbers) and FILE.json (what they are), checks the invariants that the
numbers must keep, and measures what tracing costs beside the plain forward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from nanochat.checkpoint import git_commit, load_model
from nanochat.cli import parse, print_json, run
from nanochat.engine_trace import TraceRequest, pieces, timings, trace_prompt, verify
from nanochat.trace import Dtype
from nanochat.trace_format import Level, save_trace
from nanochat.trace_invariants import broken


@dataclass(frozen=True)
class TraceSettings:
    """What to trace, and how much of it to keep."""

    prompt: tyro.conf.Positional[str]
    """The text that the model reads."""
    out: Path | None = None
    """Where to write: OUT.safetensors and OUT.json; none: nothing is written."""
    names: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ("*",)
    """Which activations: names, or patterns such as 'blocks.*.attn.pattern'."""
    level: Level = "full"
    """stats (numbers about each tensor), topk (its largest entries), full."""
    positions: tuple[int, ...] = ()
    """Only these token positions; none: all."""
    topk: int = 8
    """Entries kept of each vector at level topk."""
    dtype: Dtype = "f16"
    """f16 or f32."""
    max_bytes: int = 8 << 20
    """Most bytes of numbers; the newest positions are kept first."""
    new_tokens: int = 0
    """Tokens to write after the prompt, one step each."""
    temperature: float = 0.0
    """How freely new tokens are drawn; 0 takes the likeliest."""
    seed: int = 0
    """Seed of that draw."""
    chat: bool = False
    """Ask as in a conversation, instead of letting the model continue the text."""
    stage: str = "sft"
    """Which model: base, sft or rl."""
    tag: str | None = None
    """Which run of that stage; none: the newest."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(TraceSettings, argv, "nanochat trace", __doc__)
    model, tokenizer, _ = load_model(settings.stage, settings.tag)
    if settings.chat:
        turns = [{"role": "user", "content": settings.prompt}]
        ids = tokenizer.render_for_completion({"messages": turns})
    else:
        ids = [tokenizer.special("bos"), *tokenizer.encode(settings.prompt)]
    request = TraceRequest(
        tuple(ids),
        max_new_tokens=settings.new_tokens,
        seed=settings.seed,
        temperature=settings.temperature,
        names=settings.names,
        level=settings.level,
        positions=settings.positions or None,
        topk=settings.topk,
        dtype=settings.dtype,
        max_bytes=settings.max_bytes,
    )
    done = trace_prompt(model, request, {"code": git_commit()})
    residuals, cost = verify(model, ids), timings(model, ids)
    manifest = done.trace.manifest
    print(f"{len(done.tokens)} tokens, {len(manifest['tensors'])} tensors,", end=" ")
    print(f"{manifest['payload']['bytes']:,} bytes at level {settings.level}")
    for name, residual in residuals.items():
        print(f"  {'BROKEN' if name in broken(residuals) else 'holds '}  {name}: {residual:.2g}")
    print(f"  plain forward {cost['plain']} ms; stats {cost['stats_ratio']} times that,", end=" ")
    print(f"full {cost['full_ratio']} times; writing {cost['write']} ms more;", end=" ")
    print(f"eager against fast: {done.max_logit_difference:.2g}")
    for token, chance in done.chances[-1]:
        print(f"  {chance:6.1%}  {pieces(tokenizer, [token])[0]['text']!r}")
    if settings.out:
        print(f"written: {', '.join(map(str, save_trace(done.trace, settings.out)))}")
    if settings.json:
        record: dict[str, Any] = {"tokens": len(done.tokens), "tensors": len(manifest["tensors"])}
        record |= {"bytes": manifest["payload"]["bytes"], "sha256": manifest["payload"]["sha256"]}
        record |= {"invariants": residuals, "broken": broken(residuals), "cost_ms": cost}
        print_json(record | {"max_logit_difference": done.max_logit_difference})
    return 1 if broken(residuals) else 0


if __name__ == "__main__":
    run(main)
