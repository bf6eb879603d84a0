"""Talk to a trained model in the terminal, or ask it one thing with --prompt.

Read: ChatSettings -> Chat.ask -> Chat.obey -> main. Commands while chatting: /help.
"""

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import tyro

from nanochat.checkpoint import load_model
from nanochat.cli import parse, run
from nanochat.device import pick_device, pick_dtype
from nanochat.engine import Engine, TokenEvent, message_content
from nanochat.errors import UserError
from nanochat.sampling import Sampling

HELP = """\
  /clear            forget the conversation
  /temperature 0.8  how wild the answers are; 0 always takes the best token
  /help             this list
  /quit             leave; so does Ctrl-D
Ctrl-C stops an answer; what was said so far is kept."""

CUT = {"length": "--max-tokens is reached", "context": "the context is full"}
BRACKETS = {
    ("text", "tool_call"): "[",
    ("tool_call", "tool_result"): " = ",
    ("tool_call", "text"): "] ",
    ("tool_result", "text"): "] ",
    ("tool_result", "tool_call"): "] [",
}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal might obey these
NUMBER = re.compile(r"-?[0-9]*\.?[0-9]+")


@dataclass(frozen=True)
class ChatSettings:
    """Which model talks, and how its words are drawn."""

    prompt: str | None = None  # ask this, print the answer and leave
    stage: str = "sft"  # which training stage's model: base, sft or rl
    tag: str | None = None  # name of the run; by default the one saved last
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(default_factory=Sampling)
    device: str = "auto"  # auto, cpu, cuda or mps
    dtype: str = "fp32"  # number format of the activations: auto, fp32, bf16 or fp16


class Chat:
    """One conversation: what was said, and how the next answer is drawn."""

    def __init__(self, engine: Engine, sampling: Sampling) -> None:
        self.engine, self.sampling = engine, sampling
        self.messages: list[dict[str, Any]] = []
        self.turns = 0

    def ask(self, text: str) -> bool:
        """Print the answer as it comes; False if Ctrl-C cut it. PromptTooLong asks nothing."""
        asked = [*self.messages, {"role": "user", "content": text}]
        prompt, dropped = self.engine.prompt_for(asked, self.sampling.max_tokens)
        if dropped:
            note(f"the conversation outgrew the context: its {dropped} oldest messages are dropped")
        # A seed of its own for each turn: asking again may bring another answer.
        seeded = replace(self.sampling, seed=self.sampling.seed + self.turns)
        self.turns += 1
        answer = self.engine.answer(prompt, seeded)
        try:
            before = "text"
            for event in self.engine.run(answer):
                print(shown(before, event), end="", flush=True)
                before = event.kind
            print()
        except KeyboardInterrupt:
            note("stopped", newline=True)
        if answer.finish_reason in CUT:
            note(f"cut: {CUT[answer.finish_reason]}")
        self.messages = asked[dropped:]
        self.messages.append({"role": "assistant", "content": message_content(answer.parts)})
        return answer.finish_reason is not None

    def obey(self, line: str) -> bool:
        """Do what a /command says; False means leave."""
        command, *values = line.split()
        if command in ("/quit", "/exit"):
            return False
        if command == "/clear":
            self.messages = []
            note("the conversation is forgotten")
        elif command == "/temperature" and len(values) == 1:
            heat = float(values[0] if NUMBER.fullmatch(values[0]) else "nan")  # NaN is refused
            self.sampling = replace(self.sampling, temperature=heat)
            note(f"temperature {self.sampling.temperature:g}")
        else:
            print(HELP)
        return True


def shown(before: str, event: TokenEvent) -> str:
    """What the terminal gets: no control characters, a tool's use as [48*7 = 336]."""
    safe = "".join("\ufffd" if CONTROL.match(c) else c for c in event.text)
    closing = "]" if event.finish_reason and event.kind != "text" else ""
    return BRACKETS.get((before, event.kind), "") + safe + closing


def note(text: str, newline: bool = False) -> None:
    print("\n" * newline + f"({text})")


def talk(chat: Chat) -> None:
    """Read lines until Ctrl-D or /quit; a mistake costs one sentence, never the conversation."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (arrow keys and history, where the system has it)
    while True:
        try:
            line = input("you> ").strip()
            if line.startswith("/"):
                if not chat.obey(line):
                    return
            elif line:
                chat.ask(line)
        except EOFError:
            return print()
        except KeyboardInterrupt:
            note("Ctrl-D or /quit leaves", newline=True)
        except UserError as error:
            note(str(error))


def main(argv: Sequence[str] | None = None) -> int | None:
    settings = parse(ChatSettings, argv, "nanochat chat-cli", __doc__)
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    model, tokenizer, _ = load_model(settings.stage, settings.tag, device, dtype)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an ASCII terminal is no reason to crash
    chat = Chat(Engine(model, tokenizer), settings.sampling)
    if settings.prompt is not None:
        return 0 if chat.ask(settings.prompt) else 130
    note("ask away; /help lists the commands, Ctrl-D leaves")
    talk(chat)
    return 0


if __name__ == "__main__":
    run(main)
