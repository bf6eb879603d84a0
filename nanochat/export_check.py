"""Does an exported folder compute what our model computes? Fifty prompts, logit by logit.

Called by scripts/export_check.py. The exported files are loaded by the real libraries: the NanoChat
class of transformers, its tokenizer, and onnxruntime where there is a model.onnx.
Read: our_model -> prompts -> check_export.
"""

import json
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file

from nanochat.checkpoint import CheckpointMissing, find_checkpoint, load_checkpoint
from nanochat.errors import UserError
from nanochat.export import named_back
from nanochat.export_onnx import need
from nanochat.gpt import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer

PROMPTS = 50
TEXTS = (
    "Anna went to the garden and picked up the lamp. Then Tom came in. Where is the lamp?",
    "What is 48*7? The answer is 336, isn't it: 40*7 + 8*7.",
    "How many r are in strawberry? s-t-r-a-w-b-e-r-r-y, and then we count: 1, 2, 3.",
    "def root(x):\n    return x ** 0.5  # as in school\n\n\nprint(root(2))\n",
    "Grüße aus Köln! Ça va? 日本語も少し。 🙂 and back to plain words, 1,234.5 of them.",
)


class NoExport(UserError):
    """The folder is not one that export-hf wrote."""


def our_model(folder: Path) -> tuple[GPT, str]:
    """The model that was exported, from its checkpoint while that is there, else from the files."""
    try:
        source = json.loads((folder / "nanochat.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NoExport(
            f"{folder} is no export of ours ({error}): make one with "
            "`nanochat export-hf --preset classic OUT`"
        ) from error
    config = GPTConfig(**source["model"])
    model = GPT(config).eval()
    try:
        path = find_checkpoint(source["stage"], source["tag"], source["step"])
        weights, origin = load_checkpoint(path, with_optimizer=False).model, "checkpoint"
    except CheckpointMissing:
        weights, origin = named_back(load_file(folder / "model.safetensors"), config), "export"
    model.load_state_dict(weights)
    return model, origin


def prompts(tokenizer: Tokenizer, limit: int) -> list[list[int]]:
    """PROMPTS token rows of 1 to `limit` tokens: plain text and conversations, cut anywhere."""
    dice = Random("export-check")
    found: list[list[int]] = []
    while len(found) < PROMPTS:
        text = " ".join(dice.choice(TEXTS) for _ in range(dice.randint(1, 3)))
        if len(found) % 2:
            ids = tokenizer.render_for_completion({"messages": [{"role": "user", "content": text}]})
        else:
            ids = [tokenizer.special("bos"), *tokenizer.encode(text)]
        found.append(ids[: dice.randint(1, min(limit, len(ids)))])
    return found


@torch.inference_mode()
def check_export(folder: Path) -> dict[str, Any]:
    """{"max_logit_diff", "prompts", "against", "tokens_equal", "greedy_equal", "max_onnx_diff"}."""
    transformers = need("transformers")
    model, origin = our_model(folder)
    tokenizer = Tokenizer.load(folder, model.config.vocab_size)
    theirs = transformers.NanoChatForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    session = None
    if (folder / "model.onnx").is_file():
        session = need("onnxruntime").InferenceSession(str(folder / "model.onnx"))
    worst = worst_onnx = 0.0
    greedy = True
    rows = prompts(tokenizer, model.config.sequence_len)
    for ids in rows:
        row = torch.tensor([ids])
        ours = model(row)  # (1, T, V)
        other = theirs(row).logits.float()
        worst = max(worst, (ours - other).abs().max().item())
        greedy = greedy and bool((ours.argmax(-1) == other.argmax(-1)).all())
        if session is not None:
            (out,) = session.run(None, {"input_ids": row.numpy()})
            worst_onnx = max(worst_onnx, (ours - torch.from_numpy(out)).abs().max().item())
    same = all(
        their_tokenizer.encode(text, add_special_tokens=False) == tokenizer.encode(text)
        for text in TEXTS
    )
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": TEXTS[0]}]
    chat = their_tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    same = same and chat == tokenizer.render_for_completion({"messages": messages})
    result = {"max_logit_diff": worst, "prompts": len(rows), "against": origin}
    result |= {"tokens_equal": same, "greedy_equal": greedy}
    return result | ({"max_onnx_diff": worst_onnx} if session is not None else {})
