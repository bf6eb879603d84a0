"""What a trace can see: the name and the axes of every activation, and how to ask for them.

Called by trace.py, trace_format.py and serve/bridge_app.py. Names are in TransformerLens style:
`blocks.3.attn.pattern`. Read: GLOBAL -> IN_BLOCK -> known_names -> chosen.

Axes: T new tokens, S keys seen, C channels, H query heads, G key/value heads, D head size,
M hidden width of the MLP, V vocabulary, L layers, 1 a single number.
"""

import difflib
import functools
from collections.abc import Sequence
from fnmatch import fnmatchcase

from nanochat.errors import UserError
from nanochat.gpt import GPTConfig

# In the order in which they happen.
GLOBAL: dict[str, str] = {
    "embed": "TC",  # the row of the table
    "embed_norm": "TC",
    "smear_gate": "T1",  # how much of the previous token comes in
    "x0": "TC",  # what the first block starts from
    "backout": "TC",  # what is taken away at the end
    "resid_final": "TC",
    "final_norm": "TC",
    "logits_raw": "TV",  # before the softcap
    "logits": "TV",
}
CONSTANTS = {"residual_scale": "L", "input_scale": "L", "smear_scale": "1", "backout_scale": "1"}
IN_BLOCK: dict[str, str] = {
    "resid_pre": "TC",  # residual_scale * what came + input_scale * x0
    "ln1.normalized": "TC",
    "attn.q": "THD",
    "attn.k": "TGD",
    "attn.v": "TGD",
    "attn.value_gate": "TG",
    "attn.value_embed": "TGD",
    "attn.v_mixed": "TGD",  # v + gate * value embedding
    "attn.rot_q": "THD",  # rotated, not yet normalised
    "attn.rot_k": "TGD",
    "attn.q_normed": "THD",  # rotated, normalised, scaled: what is multiplied
    "attn.k_normed": "TGD",
    "attn.scores": "HTS",  # -inf where a query may not look
    "attn.pattern": "HTS",
    "attn.z": "THD",  # the weighted mean of v
    "attn.result": "THC",  # what each head writes; their sum is attn_out
    "attn_out": "TC",
    "resid_mid": "TC",
    "ln2.normalized": "TC",
    "mlp.pre": "TM",
    "mlp.gate": "TM",
    "mlp.post": "TM",
    "mlp_out": "TC",
    "resid_post": "TC",
}
DERIVED = {"attn.rot_q", "attn.rot_k", "attn.result", *CONSTANTS}  # to be read, not to be edited
GATED = {"attn.value_gate", "attn.value_embed", "attn.v_mixed"}


class UnknownHook(UserError):
    """No activation of this model goes by that name."""


@functools.cache
def split_name(name: str) -> tuple[int, str]:
    """'blocks.3.attn.q' -> (3, 'attn.q'); 'embed' -> (-1, 'embed')."""
    if name.startswith("blocks."):
        _, layer, rest = name.split(".", 2)
        return int(layer), rest
    return -1, name


def full_name(name: str, layer: int) -> str:
    return name if layer < 0 else f"blocks.{layer}.{name}"


@functools.cache
def axes_of(name: str) -> str:
    _, short = split_name(name)
    return IN_BLOCK.get(short) or GLOBAL.get(short) or CONSTANTS[short]


def known_names(config: GPTConfig) -> list[str]:
    """Every activation that this model has, in the order in which they happen."""
    return list(_known_names(config))


@functools.lru_cache(maxsize=8)
def _known_names(config: GPTConfig) -> tuple[str, ...]:
    missing = set()
    if not config.smear:
        missing |= {"smear_gate", "smear_scale"}
    if not config.backout:
        missing |= {"backout", "backout_scale"}
    if not config.residual_scalars:
        missing |= {"residual_scale", "input_scale"}
    if config.mlp != "swiglu":
        missing.add("mlp.gate")
    names = [name for name in ("embed", "embed_norm", "smear_gate", "x0") if name not in missing]
    for layer in range(config.n_layer):
        gone = missing | (set() if config.has_value_embedding(layer) else GATED)
        names += [full_name(name, layer) for name in IN_BLOCK if name not in gone]
    late = ("backout", "resid_final", "final_norm", "logits_raw", "logits", *CONSTANTS)
    return (*names, *(name for name in late if name not in missing))


def matching_names(known: list[str], pattern: str) -> list[str]:
    return [name for name in known if fnmatchcase(name, pattern)]


def chosen(wanted: str | Sequence[str], config: GPTConfig) -> list[str]:
    """The names that match: whole names, or patterns such as `blocks.*.attn.pattern` and `*`.

    Raises UnknownHook for one that matches nothing, with the nearest names there are.
    """
    patterns = [wanted] if isinstance(wanted, str) else list(wanted)
    known, found = known_names(config), set[str]()
    if patterns == ["*"]:
        return known
    every = set(known)
    for pattern in patterns:
        matching = [pattern] if pattern in every else matching_names(known, pattern)
        if not matching:
            near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4)
            raise UnknownHook(
                f"this model has no activation {pattern!r:.80}: try "
                f"{', '.join(near) or 'blocks.0.resid_post'}, or a pattern such as "
                "'blocks.*.attn.pattern'"
            )
        found.update(matching)
    return [name for name in known if name in found]
