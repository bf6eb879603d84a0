"""A model that knows a few answers by heart, so that tests of server and page know what to expect.

Everything around it is real: the tokenizer, the engine with its cache and tool machine, the server.
`python tests/scripted_chat.py --port 0` serves it, with the flags of `nanochat chat-web`; how slow
it is stands in the file that PACE_FILE names. Used by test_chat_app.py and browser/.
Read: SCRIPT -> ScriptedGPT.forward -> scripted_engine -> PacedGPT -> main.
"""

import argparse
import os
import threading
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from nanochat.chat_format import assistant_turn
from nanochat.cli import parse
from nanochat.engine import Engine
from nanochat.gpt import GPTConfig
from nanochat.kv_cache import CacheView
from nanochat.observe.logs import start_logging
from nanochat.serve.chat_app import create_app
from nanochat.serve.server import address_of, open_socket, serve
from nanochat.serve.settings import ServedModel, ServeSettings
from nanochat.tokenizer import Tokenizer

Part = dict[str, str]
CALL = [
    {"type": "python", "text": "48*7"},
    {"type": "python_output", "text": "336"},
    {"type": "text", "text": "48*7 is 336."},
]
TWO_CALLS = [
    {"type": "text", "text": "First one, "},
    {"type": "python", "text": "2+3"},
    {"type": "python_output", "text": "5"},
    {"type": "text", "text": "then the other: "},
    {"type": "python", "text": "5*5"},
    {"type": "python_output", "text": "25"},
    {"type": "text", "text": "so 25."},
]
FAILED_CALL = [{"type": "python", "text": "1/0"}, {"type": "text", "text": "That has no value."}]
MARKDOWN = """# A small heading

Some **bold**, *slanted* and `code` words, a [link](https://example.com/a?b=1) and a list:

- a lamp
- a drum
  - with a stick
  - and a bell
1. first
2. second

> said Anna

```python
def double(x):
    return x * 2  # <b>not bold</b>
```

The end."""
HOSTILE = """<script>window.pwned = 1</script><img src=x onerror="window.pwned = 1">

[click](javascript:window.pwned=1) [data](data:text/html,<script>window.pwned=1</script>)
![picture](http://127.0.0.1:9/pixel.png) <a href="javascript:window.pwned=1">a</a>

`<svg onload=window.pwned=1>` **<iframe src="javascript:window.pwned=1">**"""
STORY = (
    "Anna woke up in the garden. The sun was warm and the birds sang. She saw a lamp under the old "
    "tree. Anna took the lamp and went to the kitchen. Tom was there. Tom was happy to see her. "
    "Anna gave the lamp to Tom, and Tom put the lamp on the table. The end."
)
SCRIPT: dict[str, str | list[Part]] = {
    "Hello": "Hello! How can I help you today?",
    "What is 48*7?": CALL,
    "Two sums": TWO_CALLS,
    "Divide by zero": FAILED_CALL,
    "Markdown": MARKDOWN,
    "Attack": HOSTILE,
    "Emoji": "Grüße 👋🏽 an Łódź, 日本語 too.",
    "Who are you?": "I am nanochat, a small language model. I was trained on this machine.",
    "Spell lantern.": "l-a-n-t-e-r-n",
    "Tell me a story about Anna and a lamp.": STORY,
    "Count": " ".join(str(n) for n in range(1, 400)),
}
HEADS_OR_TAILS = ("Heads it is.", "Tails it is.")  # to "Toss a coin": the dice decide


class ScriptedGPT(nn.Module):
    """Keeps the token ids it has read in its cache, looks the last question up, says the answer."""

    def __init__(self, tokenizer: Tokenizer, context: int, delay_s: float) -> None:
        super().__init__()
        self.config = GPTConfig(
            sequence_len=context,
            vocab_size=tokenizer.vocab_size,
            n_layer=1,
            n_head=1,
            n_kv_head=1,
            n_embd=2,
            window_pattern="L",
            smear=False,
        )
        self.tokenizer, self.delay_s, self.dtype = tokenizer, delay_s, torch.float32
        self.weight = nn.Parameter(torch.zeros(1))
        self.known: dict[str, list[int]] = {}  # answer -> its ids
        self.go = threading.Event()  # a test clears it to hold the model in the middle of its work
        self.go.set()

    def forward(self, tokens: Tensor, cache: CacheView, last_only: bool) -> Tensor:
        B, T = tokens.shape
        as_keys = tokens[:, :, None, None].expand(B, T, 1, 2).float()  # an id fits float32
        lengths = (cache.before + T).tolist()
        held, _, _ = cache.update(0, as_keys, as_keys)  # (B, S, 1, 2)
        cache.advance(T)
        logits = torch.full((B, 1, self.config.vocab_size), -50.0)
        for row, length in enumerate(lengths):
            for token in self.next_tokens(held[row, :length, 0, 0].long().tolist()):
                logits[row, 0, token] = 50.0
        time.sleep(self.delay_s)
        assert self.go.wait(60), "a test forgot to let the model go on"
        return logits

    def next_tokens(self, history: list[int]) -> set[int]:
        """What may follow, all equally likely."""
        special = self.tokenizer.special
        if special("assistant_start") not in history:
            return {special("assistant_end")}  # a plain completion: there was no question
        at = len(history) - history[::-1].index(special("assistant_start"))
        before = history[:at]
        start = len(before) - before[::-1].index(special("user_start"))
        end = len(before) - 1 - before[::-1].index(special("user_end"))
        said = history[at:]
        replies = [
            self.ids(reply) for reply in answers_to(self.tokenizer.decode(before[start:end]))
        ]
        return {ids[len(said)] for ids in replies if ids[: len(said)] == said}

    def ids(self, content: str | list[Part]) -> list[int]:
        found = self.known.setdefault(str(content), [])
        if found:
            return found
        turn = list(assistant_turn(content))[1:]  # without assistant_start
        for special, text, _ in turn:
            found += [self.tokenizer.special(special)] if special else self.tokenizer.encode(text)
        return found


def answers_to(question: str) -> list[str | list[Part]]:
    question = question.rpartition("\n\n")[2]  # a system prompt stands before the first question
    if question == "Break":
        raise RuntimeError("the scripted model breaks here")
    if question == "Toss a coin":
        return list(HEADS_OR_TAILS)
    return [SCRIPT.get(question, f"You said: {question}")]


class PacedGPT(ScriptedGPT):
    """Takes the time for a step that a file says: a test in another process may write it."""

    def forward(self, tokens: Tensor, cache: CacheView, last_only: bool) -> Tensor:
        if "PACE_FILE" in os.environ:
            self.delay_s = float(Path(os.environ["PACE_FILE"]).read_text())
        return super().forward(tokens, cache, last_only)


def scripted_engine(
    context: int = 2048, delay_s: float = 0.0, kind: type[ScriptedGPT] = ScriptedGPT
) -> Engine:
    texts = [str(answer) for answer in SCRIPT.values()] * 20
    tokenizer = Tokenizer.train(texts, 400)
    return Engine(kind(tokenizer, context, delay_s), tokenizer)  # type: ignore[arg-type]


ABOUT = ServedModel(name="nanochat-scripted", parameters=3_145_728)


def main() -> None:
    flags = argparse.ArgumentParser()
    flags.add_argument("--context", type=int, default=2048)
    flags.add_argument("--delay-s", type=float, default=0.0)
    given, others = flags.parse_known_args()
    settings = parse(ServeSettings, ["--port", "0", *others], "scripted_chat.py", __doc__)
    bound = open_socket(settings.host, settings.port)
    start_logging(settings.log, settings.log_level)
    app = create_app(settings, scripted_engine(given.context, given.delay_s, PacedGPT), ABOUT)
    serve(app, bound, lambda: print(address_of(bound), flush=True))


if __name__ == "__main__":
    main()
