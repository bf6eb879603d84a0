"""Our weights as a Hugging Face model: any engine that knows the NanoChat architecture can load it.

    OUT/model.safetensors  config.json  generation_config.json
    OUT/tokenizer.json  tokenizer_config.json (with the chat template)
    OUT/README.md (the model card)  nanochat.json (where it comes from)
Only the `classic` preset has a counterpart there: value embeddings, residual scalars, smear,
backout and windows don't exist in it. Called by scripts/export_hf.py; export_check.py compares the
logits, export_onnx.py writes ONNX. Read: why_not -> renamed -> hf_config -> CHAT_TEMPLATE ->
write_export.
"""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from nanochat.atomic import sync_folder
from nanochat.chat_format import special_text
from nanochat.checkpoint import Checkpoint, list_checkpoints
from nanochat.errors import UserError
from nanochat.fused import EPS
from nanochat.gpt import GPTConfig, classic
from nanochat.paths import checkpoints_dir
from nanochat.tokenizer import Tokenizer

# our name inside a block -> the name over there
LAYER_NAMES = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.out": "self_attn.o_proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}

# A system message goes in front of the first question, with an empty line between.
CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- set lead = '' -%}"
    "{%- if messages[0]['role'] == 'system' -%}"
    "{%- set lead = messages[0]['content'] + '\\n\\n' -%}"
    "{%- set messages = messages[1:] -%}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    "{{- '<|user_start|>' + (lead if loop.first else '') + message['content'] + '<|user_end|>' -}}"
    "{%- else -%}"
    "{{- '<|assistant_start|>' + message['content'] + '<|assistant_end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant_start|>' -}}{%- endif -%}"
)


class NotExportable(UserError):
    """The model has parts that the other side does not know."""


def why_not(config: GPTConfig) -> list[str]:
    """What of a model has no counterpart; [] when it can be exported."""
    plain = asdict(classic(config))
    return [
        f"{name}={value}"
        for name, value in asdict(config).items()
        if value != plain[name] and name != "window_pattern"
    ] + ["windows"] * (set(config.windows()) != {config.sequence_len})


def newest_classic(stages: tuple[str, ...] = ("rl", "sft", "base")) -> Path | None:
    """The checkpoint that was saved last among those that can be exported, any tag."""
    found = []
    for stage in stages:
        for folder in checkpoints_dir(stage, "x").parent.glob("*"):
            for path in list_checkpoints(folder)[-1:]:
                meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
                if not why_not(GPTConfig(**meta["model"])):
                    found.append(path)
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def renamed(weights: dict[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Our state dict under their names, without the padding rows of the vocabulary."""
    V = config.vocab_size
    theirs = {
        "model.embed_tokens.weight": weights["embed.weight"][:V],
        "lm_head.weight": weights["head.weight"][:V],
    }
    for layer in range(config.n_layer):
        for ours, name in LAYER_NAMES.items():
            theirs[f"model.layers.{layer}.{name}.weight"] = weights[f"blocks.{layer}.{ours}.weight"]
    return {name: weight.float().contiguous().clone() for name, weight in theirs.items()}


def named_back(theirs: dict[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """The inverse of `renamed`; the padding rows come back as zeros."""
    rows = -(-config.vocab_size // 64) * 64
    ours = {}
    for name, source in (("embed.weight", "model.embed_tokens"), ("head.weight", "lm_head")):
        table = theirs[f"{source}.weight"]
        ours[name] = table.new_zeros(rows, table.size(1))
        ours[name][: len(table)] = table
    for layer in range(config.n_layer):
        for mine, name in LAYER_NAMES.items():
            ours[f"blocks.{layer}.{mine}.weight"] = theirs[f"model.layers.{layer}.{name}.weight"]
    return ours


def hf_config(config: GPTConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json: the sizes in their words."""
    return {
        "architectures": ["NanoChatForCausalLM"],
        "model_type": "nanochat",
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "intermediate_size": 4 * config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "max_position_embeddings": config.sequence_len,
        "hidden_act": "relu2",
        "rms_norm_eps": EPS**2,  # ours bounds the root mean square, theirs its square
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "final_logit_softcapping": config.softcap or None,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.special("bos"),
        "eos_token_id": tokenizer.special("assistant_end"),
        "pad_token_id": tokenizer.special("bos"),
        "dtype": "float32",
    }


def tokenizer_config(config: GPTConfig) -> dict[str, Any]:
    """What the other library must know about our tokenizer besides its pieces."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": special_text("bos"),
        "eos_token": special_text("assistant_end"),
        "pad_token": special_text("bos"),
        "model_max_length": config.sequence_len,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def model_card(checkpoint: Checkpoint, config: GPTConfig, name: str) -> str:
    """README.md: what the model is, how it was made, how to load it, what it cannot do."""
    meta, curve = checkpoint.meta, checkpoint.meta.get("loop", {}).get("curve") or [[]]
    bits = curve[-1][2] if len(curve[-1]) > 2 else None
    measured = f"{bits:.3f} bits per byte on unseen text of its data" if bits else "not measured"
    data = meta["settings"].get("data", "unknown")
    torch = meta.get("versions", {}).get("torch", "unknown")
    count = sum(weight.numel() for weight in renamed(checkpoint.model, config).values())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [nanochat]
---
# {name}

A small language model trained with nanochat, preset `classic`: {count:,} parameters,
{config.n_layer} layers of {config.n_embd} channels, {config.n_head} heads
({config.n_kv_head} for keys and values), a vocabulary of {config.vocab_size:,} tokens and a context
of {config.sequence_len:,}.

| | |
|---|---|
| stage, step | {checkpoint.path.parent.parent.name}, {meta["step"]:,} |
| data | {data} |
| measured | {measured} |
| code | commit {meta.get("commit", "unknown")}, torch {torch} |

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")
```

## Limits

It knows the data above and nothing else; what it says about the world may be wrong. It was made to
learn how language models work, not to give advice. Nothing was done to make it safe for others.
Text that looks like a special token ("<|bos|>") becomes one in this tokenizer unless
`split_special_tokens=True` is set: set it for text that you did not write.
"""


def write_export(out: Path, checkpoint: Checkpoint, tokenizer: Tokenizer) -> Path:
    """Write the whole folder, or nothing: an earlier export stays until the new one is complete."""
    config = GPTConfig(**checkpoint.meta["model"])
    foreign = why_not(config)
    if foreign:
        raise NotExportable(
            f"{checkpoint.path} has {', '.join(foreign)}, which Hugging Face's NanoChat lacks: "
            "train with `nanochat base-train --preset classic --tag classic`, then export that tag"
        )
    if out.exists() and not (out / "nanochat.json").is_file() and any(out.iterdir()):
        raise NotExportable(f"{out} holds something that is no export of ours: name another folder")
    draft = out.with_name(f".writing-{os.getpid()}-{out.name}")
    draft.mkdir(parents=True)
    try:
        weights = renamed(checkpoint.model, config)
        save_file(weights, draft / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save(draft)
        source = {"path": str(checkpoint.path.name), "model": asdict(config)}
        source |= {"stage": checkpoint.path.parent.parent.name, "tag": checkpoint.path.parent.name}
        source |= {"tokenizer": tokenizer.fingerprint(), "step": checkpoint.meta["step"]}
        ends: dict[str, Any] = {"bos_token_id": tokenizer.special("bos"), "max_new_tokens": 256}
        ends |= {"eos_token_id": [tokenizer.special("assistant_end"), tokenizer.special("bos")]}
        for name, content in (
            ("config.json", hf_config(config, tokenizer)),
            ("generation_config.json", ends),
            ("tokenizer_config.json", tokenizer_config(config)),
            ("nanochat.json", source),
        ):
            (draft / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        card = model_card(checkpoint, config, out.name)
        (draft / "README.md").write_text(card, encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync_folder(out.parent)
    return out
