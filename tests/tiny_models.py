"""Small models and tokenizers for the engine's tests: a lively one, and one that reads a script."""

from typing import Any

import torch
from torch import Tensor

from nanochat.gpt import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer


def byte_tokenizer() -> Tokenizer:
    """The real tokenizer without a single merge: an emoji is four tokens."""
    return Tokenizer({bytes([i]): i for i in range(256)})


def config(**changes: Any) -> GPTConfig:
    sizes = {"sequence_len": 300, "vocab_size": 265, "n_layer": 3, "n_embd": 32}
    heads = {"n_head": 4, "n_kv_head": 2, "window_pattern": "SSL"}  # S sees 128 back
    return GPTConfig(**(sizes | heads | changes))


def lively_model(sharpness: float = 300.0, seed: int = 0, **changes: Any) -> GPT:
    """Random weights, none of them zero, so that every part of the model shapes the scores.

    `sharpness` multiplies the head: 1 is nearly uniform, 300 is sure of itself.
    """
    model = GPT(config(**changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    model.init_weights(generator)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                weight.normal_(0, 0.3, generator=generator)
            elif name == "smear_scale":
                weight.fill_(1.0)
        model.head.weight.mul_(sharpness)
    return model


class Scripted(GPT):
    """A model that says `reply` after a prompt of `prompt_tokens` tokens; it counts its passes."""

    def __init__(self, reply: list[int], prompt_tokens: int, **changes: Any) -> None:
        super().__init__(config(**changes))
        self.reply, self.prompt_tokens = reply, prompt_tokens
        self.read: list[list[list[int]]] = []  # the ids of every pass

    def forward(self, idx: Tensor, *_: Any, cache: Any = None, **__: Any) -> Tensor:
        self.read.append(idx.tolist())
        place = int(cache.positions(idx.size(1))[0, -1]) + 1 - self.prompt_tokens
        cache.advance(idx.size(1))
        logits = torch.zeros(len(idx), 1, self.config.vocab_size)
        logits[:, :, self.reply[min(place, len(self.reply) - 1)]] = 15.0
        return logits
