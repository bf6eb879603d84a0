"""The classic model as an ONNX graph, written node by node: any runtime can run it.

Called by scripts/export_hf.py --onnx; export_check.py compares it in onnxruntime. The graph is
built by hand rather than traced, so that it reads like gpt.py and takes any batch and length.
Read: Graph -> rms_norm -> rotary -> attention -> mlp -> onnx_model.
Input input_ids (B, T) int64, output logits (B, T, V) fp32. No cache: each call reads all tokens.
B batch, T time, C channels, H heads, G key/value heads, D head size, V vocabulary.
"""

from typing import Any

import numpy as np
from torch import Tensor

from nanochat.errors import UserError
from nanochat.fused import EPS
from nanochat.gpt import GPTConfig, rotary_tables

OPSET = 18


class ExtraMissing(UserError):
    """An optional package is needed for this."""


def need(module: str) -> Any:
    """Import a package of the `export` extra, or say what installs it."""
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        raise ExtraMissing(
            f"{module} is missing: `pip install -c constraints.txt -e '.[export]'` installs it"
        ) from error


class Graph:
    """Nodes and constants in the order they are added; every node has one output, its name."""

    def __init__(self) -> None:
        self.onnx = need("onnx")
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def constant(self, value: Any, kind: type = np.float32) -> str:
        """Add numbers to the graph (small ones once only); returns their name."""
        array: np.ndarray = np.asarray(value, dtype=kind)
        name = (
            f"c_{kind.__name__}_{array.tolist()}" if array.size < 9 else f"w_{len(self.constants)}"
        )
        self.constants[name] = array
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def weight(self, weight: Tensor) -> str:
        """A matrix of torch, (out, in), as the right factor of a product, (in, out)."""
        return self.constant(weight.float().T.contiguous().numpy())


def rms_norm(g: Graph, x: str) -> str:
    """x / max(root mean square, EPS) along the last axis."""
    mean = g("ReduceMean", g("Mul", x, x), g.ints(-1), keepdims=1)
    return g("Div", x, g("Max", g("Sqrt", mean), g.constant(EPS)))


def rotary(g: Graph, x: str, cos: str, sin: str) -> str:
    """(B, T, H, D): the pairs (x[i], x[i + D/2]) turned by the angle of their position."""
    first, second = f"{x}_first", f"{x}_second"
    g.nodes.append(
        g.onnx.helper.make_node(
            "Split", [x], [first, second], f"{x}_halves", axis=-1, num_outputs=2
        )
    )
    left = g("Add", g("Mul", first, cos), g("Mul", second, sin))
    right = g("Sub", g("Mul", second, cos), g("Mul", first, sin))
    return g("Concat", left, right, axis=-1)


def attention(g: Graph, x: str, w: dict[str, Tensor], config: GPTConfig, shared: dict) -> str:
    """x (B, T, C), normalised -> (B, T, C)."""
    H, G, D = config.n_head, config.n_kv_head, config.head_size

    def heads(name: str, count: int) -> str:
        return g("Reshape", g("MatMul", x, g.weight(w[name])), g.ints(0, 0, count, D))

    q = rms_norm(g, rotary(g, heads("attn.q", H), shared["cos"], shared["sin"]))
    k = rms_norm(g, rotary(g, heads("attn.k", G), shared["cos"], shared["sin"]))
    q = g("Transpose", q, perm=[0, 2, 1, 3])  # (B, H, T, D)
    k = g("Transpose", k, perm=[0, 2, 1, 3])  # (B, G, T, D)
    v = g("Transpose", heads("attn.v", G), perm=[0, 2, 1, 3])
    if G < H:  # each key/value head serves H / G query heads
        spread = g.ints(1, 1, H // G, 1, 1)
        k, v = (
            g(
                "Reshape",
                g("Tile", g("Unsqueeze", part, g.ints(2)), spread),  # (B, G, H/G, T, D)
                g.ints(0, H, -1, D),
            )
            for part in (k, v)
        )
    scores = g("MatMul", q, g("Transpose", k, perm=[0, 1, 3, 2]))  # (B, H, T, T)
    scores = g("Add", g("Mul", scores, g.constant(D**-0.5)), shared["mask"])
    mixed = g("MatMul", g("Softmax", scores, axis=-1), v)  # (B, H, T, D)
    mixed = g("Reshape", g("Transpose", mixed, perm=[0, 2, 1, 3]), g.ints(0, 0, H * D))
    return g("MatMul", mixed, g.weight(w["attn.out"]))


def mlp(g: Graph, x: str, w: dict[str, Tensor]) -> str:
    positive = g("Relu", g("MatMul", x, g.weight(w["mlp.up"])))
    return g("MatMul", g("Mul", positive, positive), g.weight(w["mlp.down"]))


def positions(g: Graph, config: GPTConfig) -> dict[str, str]:
    """What all layers share: angles of the first T positions, and who may look at whom."""
    T = g("Gather", g("Shape", "input_ids"), g.constant(1, np.int64), axis=0)
    ends = g("Unsqueeze", T, g.ints(0))
    shared = {}
    for name, table in zip(("cos", "sin"), rotary_tables(config, config.sequence_len), strict=True):
        angles = g("Slice", g.constant(table.numpy()), g.ints(0), ends, g.ints(0))  # (T, D/2)
        shared[name] = g("Unsqueeze", angles, g.ints(0, 2))  # (1, T, 1, D/2)
    place = g("Range", g.constant(0, np.int64), T, g.constant(1, np.int64))
    later = g("Greater", g("Unsqueeze", place, g.ints(0)), g("Unsqueeze", place, g.ints(1)))
    shared["mask"] = g("Where", later, g.constant(-np.inf), g.constant(0.0))  # (T, T)
    return shared


def onnx_model(weights: dict[str, Tensor], config: GPTConfig) -> Any:
    """Our state dict of a classic model -> an onnx.ModelProto that onnx's own checker accepts."""
    g = Graph()
    V = config.vocab_size
    shared = positions(g, config)
    table = g.constant(weights["embed.weight"][:V].float().numpy())
    x = rms_norm(g, g("Gather", table, "input_ids", axis=0))
    for layer in range(config.n_layer):
        start = f"blocks.{layer}."
        w = {
            name.removeprefix(start).removesuffix(".weight"): weight
            for name, weight in weights.items()
            if name.startswith(start)
        }
        x = g("Add", x, attention(g, rms_norm(g, x), w, config, shared))
        x = g("Add", x, mlp(g, rms_norm(g, x), w))
    logits = g("MatMul", rms_norm(g, x), g.weight(weights["head.weight"][:V]))
    if config.softcap:
        cap = g.constant(config.softcap)
        logits = g("Mul", g("Tanh", g("Div", logits, cap)), cap)
    g.nodes.append(g.onnx.helper.make_node("Identity", [logits], ["logits"], "logits"))
    helper, kinds = g.onnx.helper, g.onnx.TensorProto
    graph = helper.make_graph(
        g.nodes,
        "nanochat",
        [helper.make_tensor_value_info("input_ids", kinds.INT64, ["batch", "time"])],
        [helper.make_tensor_value_info("logits", kinds.FLOAT, ["batch", "time", V])],
        [g.onnx.numpy_helper.from_array(array, name) for name, array in g.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    g.onnx.checker.check_model(model)
    return model
