"""Make tests/data/trace again: small traces, and what every reader must read from them.

Run `python tests/make_trace_vectors.py` after a change of the format; test_trace.py reads them in
Python, test_trace_reader.py in TypeScript.
"""

import json
from pathlib import Path

import torch
from tiny_models import lively_model

from nanochat.engine_trace import TraceRequest, trace_prompt
from nanochat.trace_format import Level, save_trace

FOLDER = Path(__file__).parent / "data" / "trace"
NAMES = ("embed", "blocks.0.attn.pattern", "blocks.0.attn.scores", "logits", "residual_scale")


def main() -> None:
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_kv_head": 1, "vocab_size": 70}
    model = lively_model(sharpness=30.0, **sizes)
    expected = []
    cases: tuple[tuple[str, Level, str, int], ...] = (
        ("full_f16", "full", "f16", 1 << 20),
        ("full_f32", "full", "f32", 1 << 20),
        ("topk", "topk", "f16", 1 << 20),
        ("cut", "full", "f32", 700),
    )
    for name, level, dtype, max_bytes in cases:
        request = TraceRequest(
            (3, 1, 4), 2, names=NAMES, level=level, dtype=dtype, max_bytes=max_bytes, topk=2
        )
        trace = trace_prompt(model, request).trace
        save_trace(trace, FOLDER / name)
        tensors = []
        for entry in trace.manifest["tensors"]:
            found = trace.tensor(entry["name"], entry["step"])
            if bool(torch.isinf(found).any()):
                continue  # JSON has no word for it; the pattern shows the same mask
            values = [None if v != v else v for v in found.flatten().tolist()]
            key = {"name": entry["name"], "step": entry["step"], "shape": list(found.shape)}
            tensors.append(key | {"values": values})
        expected.append({"file": f"{name}.json", "tensors": tensors})
    (FOLDER / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
