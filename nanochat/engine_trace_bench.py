"""What tracing costs beside the plain forward pass, open and closed.

Called by scripts/bench.py: `nanochat bench trace`. Closed taps are compared with a model whose
source has none: gpt.py is read, every tap taken out of its syntax tree, and what is left compiled.
Both hold the same weights and take turns; the plain pass against itself shows the noise.
Read: bench_trace -> without_taps -> off_cost.
"""

import ast
import importlib.util
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nanochat import gpt
from nanochat.checkpoint import load_model
from nanochat.device import use_threads
from nanochat.engine_trace import timings

TEXT = "Anna has three apples. Ben gives her two more apples. "


@dataclass(frozen=True)
class TraceBenchSettings:
    """What to measure."""

    stage: str = "sft"  # base | sft | rl
    tag: str = ""  # name of the run; empty: the newest
    tokens: int = 32  # length of the prompt
    rounds: int = 600  # passes of each kind, in turns; the median counts
    threads: int = 1  # processor threads; 0: one for each core
    json: bool = False  # print one JSON object as the last line


def bench_trace(settings: TraceBenchSettings) -> dict[str, Any]:
    """Ratios to the plain pass: stats, full; closed taps as a share of a pass, with its noise."""
    use_threads(settings.threads)
    model, tokenizer, _ = load_model(settings.stage, settings.tag or None)
    text = tokenizer.encode(TEXT * settings.tokens)
    ids = [tokenizer.special("bos"), *text][: settings.tokens]
    bare, taps = without_taps(model)
    found: dict[str, Any] = {f"{k}_ms": v for k, v in off_cost(model, bare, ids, settings).items()}
    shares = {name: found.pop(f"{name}_ms") for name in ("off_share", "noise_share")}
    cost = timings(model, ids, min(settings.rounds, 100))
    ratios = {name: cost.pop(name) for name in ("stats_ratio", "full_ratio")}
    about = {"layers": model.config.n_layer, "channels": model.config.n_embd, "tokens": len(ids)}
    return {**about, "taps": taps, **shares, **found, **ratios, "traced_ms": cost}


class TakeOut(ast.NodeTransformer):
    """Replaces every expression and statement that asks for TAP by what is done without one."""

    def __init__(self) -> None:
        self.count = 0

    def asks(self, test: ast.expr, kind: type[ast.cmpop]) -> bool:
        """Is this `TAP is None` (or `is not`), alone or first in a chain of `and`?"""
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
            test = test.values[0]
        if not isinstance(test, ast.Compare) or not isinstance(test.left, ast.Name):
            return False
        return test.left.id == "TAP" and isinstance(test.ops[0], kind)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        if not self.asks(node.test, ast.Is):
            return node
        self.count += 1
        return node.body

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        if not self.asks(node.test, ast.IsNot):
            return node
        self.count += 1
        return node.orelse  # none: the statement is gone


def without_taps(model: gpt.GPT) -> tuple[gpt.GPT, int]:
    """(the same model from a source without taps, how many were taken out)."""
    tree, take_out = ast.parse(Path(gpt.__file__).read_text("utf-8")), TakeOut()
    tree = ast.fix_missing_locations(take_out.visit(tree))
    assert not any(isinstance(x, ast.Compare) and "TAP" in ast.unparse(x) for x in ast.walk(tree))
    spec = importlib.util.spec_from_loader("nanochat_gpt_without_taps", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    exec(compile(tree, "gpt.py without taps", "exec"), module.__dict__)
    bare: gpt.GPT = module.GPT(model.config, model.dtype)
    bare.load_state_dict(model.state_dict(), assign=True)  # the very same weights in memory
    return bare.eval(), take_out.count


@torch.inference_mode()
def off_cost(
    model: gpt.GPT, bare: gpt.GPT, token_ids: list[int], settings: TraceBenchSettings
) -> dict[str, float]:
    """Milliseconds with closed taps and without any; `off_share` is the median over the rounds of
    closed / none - 1, `noise_share` the same of two passes that are equal."""
    ids = torch.tensor([token_ids])
    assert torch.equal(model(ids), bare(ids)), "closed taps change no bit"
    seconds: dict[str, list[float]] = {"bare": [], "closed": [], "closed_again": []}
    subjects = {"bare": bare, "closed": model, "closed_again": model}
    order = list(subjects)
    for turn in range(settings.rounds + 3):
        for name in order if turn % 2 else reversed(order):
            start = time.perf_counter()
            subjects[name](ids)
            if turn >= 3:  # the first ones warm up
                seconds[name].append(time.perf_counter() - start)

    def share(name: str, other: str) -> float:
        pairs = zip(seconds[name], seconds[other], strict=True)
        return round(statistics.median(a / b for a, b in pairs) - 1, 5)

    found = {name: round(1000 * statistics.median(times), 4) for name, times in seconds.items()}
    return {
        "off_share": share("closed", "bare"),
        "noise_share": share("closed_again", "closed"),
        "closed": found["closed"],
        "bare": found["bare"],
    }
