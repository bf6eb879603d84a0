"""The model talks: prompts in, tokens out, one step for all rows at a time.

Called by chat_cli.py, chat_web.py, the exam and rl.py; a scheduler can drive a Batch itself.
Read: Sampling (sampling.py) -> TokenEvent -> Answer (one row's state) -> Batch (rows that step
together) -> Engine (stream, generate_batch). B rows, T time, V vocabulary.

An answer ends with finish_reason "stop" (the model ended its turn), "length" (max_tokens reached)
or "context" (prompt and answer fill the model's context).
"""

import codecs
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from nanochat.chat_format import SPECIALS
from nanochat.engine_kernel import (
    EngineKernel,
    next_scores,
    next_tokens,
    spare_slots,
    threads_at_rest,
)
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.kv_cache import KVCache
from nanochat.sampling import BROKEN, BrokenScores, Sampling
from nanochat.tokenizer import Tokenizer, VocabularyMismatch
from nanochat.tools import calculate

MAX_BATCH = 64  # rows that decode together; on two cores more gain little
PREFILL_TOKENS = 4096  # most prompt tokens in one forward pass, a single longer prompt apart

Kind = Literal["text", "tool_call", "tool_result"]
FinishReason = Literal["stop", "length", "context"]
PART_TYPE = {"text": "text", "tool_call": "python", "tool_result": "python_output"}


class PromptTooLong(UserError):
    """The prompt leaves no room for an answer in the model's context."""


class EmptyPrompt(UserError):
    """There is no token to go on from."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One new token of an answer, in order; the last one carries the finish_reason."""

    token: int
    text: str  # the characters that became complete with it; often "" for a special
    kind: Kind  # what the text belongs to: the answer, a call of the calculator, or its result
    forced: bool  # True: written by the engine (a tool's result), not drawn from the model
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Completion:
    """A finished answer."""

    prompt_tokens: int
    tokens: list[int]  # everything after the prompt, the token that ended it included
    forced: list[bool]  # per token, as in TokenEvent; RL must not learn from forced ones
    parts: list[dict[str, str]]  # [{"type": "text"|"python"|"python_output", "text": ...}, ...]
    finish_reason: FinishReason

    @property
    def text(self) -> str:
        """What the model said, without tool calls and results."""
        return "".join(part["text"] for part in self.parts if part["type"] == "text")

    @property
    def content(self) -> str | list[dict[str, str]]:
        return message_content(self.parts)


def message_content(parts: list[dict[str, str]]) -> str | list[dict[str, str]]:
    """Parts as the content of an assistant message: plain text unless a tool was used.

    >>> message_content([{"type": "text", "text": "Anna has"}, {"type": "text", "text": " two."}])
    'Anna has two.'
    """
    if any(part["type"] != "text" for part in parts):
        return parts
    return "".join(part["text"] for part in parts)


# @learn:inference.tool_use
class Answer:
    """One answer being written: its dice, its tool state and its half-finished character.

    The tool machine: python_start opens a call, python_end closes it; if the calculator knows the
    answer, the engine writes output_start, the result and output_end, and the model goes on.
    """

    def __init__(self, prompt: Sequence[int], sampling: Sampling, tokenizer: Tokenizer) -> None:
        self.prompt, self.sampling, self.tokenizer = list(prompt), sampling, tokenizer
        self.dice = random.Random(str(sampling.seed))  # its own, so neighbours change nothing
        self.special = {name: tokenizer.special(name) for name in SPECIALS}
        self.names = {i: name for name, i in self.special.items()}
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self.kind: Kind = "text"
        self.call: list[int] = []  # tokens of the open tool call
        self.waiting: deque[int] = deque()  # tokens the engine still has to write
        self.tokens: list[int] = []
        self.forced: list[bool] = []
        self.parts: list[dict[str, str]] = []
        self.finish_reason: FinishReason | None = None

    def accept(self, token: int, forced: bool, capacity: int) -> TokenEvent:
        """Append a token, move the tool machine, decide whether this was the last one."""
        self.tokens.append(token)
        self.forced.append(forced)
        name = self.names.get(token)
        kind = self._turn(name, token, forced)
        if name:
            self.utf8.reset()  # bytes that never became a character are dropped
            text = ""
        else:
            text = self.utf8.decode(self.tokenizer.decode_bytes([token]))
        self._note(kind, text, begins=name in ("python_start", "output_start"))
        if name in ("assistant_end", "bos"):
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.sampling.max_tokens:
            self.finish_reason = "length"
        elif len(self.prompt) + len(self.tokens) >= capacity:
            self.finish_reason = "context"
        return TokenEvent(token, text, kind, forced, self.finish_reason)

    def _turn(self, name: str | None, token: int, forced: bool) -> Kind:
        """The tool machine: returns what this token belongs to, and sets what comes after it."""
        kind = self.kind
        if name == "python_start":
            kind = self.kind = "tool_call"
            self.call = []
        elif name == "python_end" and kind == "tool_call":
            self.kind = "text"
            self._run_call()
        elif name == "output_start" and forced:  # the model can't announce a result itself
            kind = self.kind = "tool_result"
        elif name == "output_end" and forced:
            self.kind = "text"
        elif kind == "tool_call" and name is None:
            self.call.append(token)
        return kind

    def _run_call(self) -> None:
        result = calculate(self.tokenizer.decode(self.call))
        if result is not None:
            wrapped = [self.special["output_start"], *self.tokenizer.encode(result)]
            self.waiting.extend([*wrapped, self.special["output_end"]])

    def _note(self, kind: Kind, text: str, begins: bool) -> None:
        """Add the text to the part it belongs to; a call or a result begins a part of its own."""
        type_ = PART_TYPE[kind]
        if begins or (text and (not self.parts or self.parts[-1]["type"] != type_)):
            self.parts.append({"type": type_, "text": ""})
        if text:
            self.parts[-1]["text"] += text

    def completion(self) -> Completion:
        """The finished answer, as a record."""
        assert self.finish_reason is not None, "the answer is finished"
        return Completion(
            len(self.prompt), self.tokens, self.forced, self.parts, self.finish_reason
        )


Progress = list[tuple[Answer, TokenEvent]]


# @learn:inference.batching
class Batch:
    """Answers that are written together: answers[i] lives in row i of the cache.

    The rows in use stay at the front: when one leaves, the last one moves into its place. So a step
    sees a slice of the cache, and a finished answer costs nothing. After an exception, drop it.
    """

    def __init__(
        self, model: GPT, rows: int, capacity: int, kernel: EngineKernel | None = None
    ) -> None:
        assert capacity <= model.config.sequence_len, "positions beyond the context have no angles"
        self.model, self.rows, self.capacity, self.kernel = model, rows, capacity, kernel
        self.device = next(model.parameters()).device
        spare = spare_slots(kernel)
        self.cache = KVCache(model.config, rows, capacity, model.dtype, self.device, spare=spare)
        self.answers: list[Answer] = []

    @property
    def free(self) -> int:
        return self.rows - len(self.answers)

    @torch.inference_mode()
    def join(self, answers: Sequence[Answer]) -> Progress:
        """Read the prompts of new answers and write the first token of each.

        Equal prompts are read once and copied; prompts of equal length are read together.
        """
        assert len(answers) <= self.free, "the caller asks for no more rows than are free"
        twins: dict[tuple[int, ...], list[Answer]] = {}
        for answer in answers:
            twins.setdefault(tuple(answer.prompt), []).append(answer)
        by_length: dict[int, list[list[Answer]]] = {}
        for prompt, same in twins.items():
            by_length.setdefault(len(prompt), []).append(same)
        progress: Progress = []
        for length, groups in by_length.items():
            share = max(1, PREFILL_TOKENS // length)
            for start in range(0, len(groups), share):
                progress += self._prefill(groups[start : start + share])
        self._retire()
        return progress

    def _prefill(self, groups: list[list[Answer]]) -> Progress:
        """Each group is the answers to one prompt; all prompts here have one length."""
        first = len(self.answers)
        leaders = [group[0] for group in groups]
        self.answers += leaders
        for row in range(first, len(self.answers)):
            self.cache.reset(row)
        prompts = torch.tensor([answer.prompt for answer in leaders], device=self.device)  # (B, T)
        logits = self._scores(prompts, first)  # (B, V)
        source = list(range(len(leaders)))
        for i, group in enumerate(groups):
            for twin in group[1:]:
                self.cache.copy_row(first + i, len(self.answers))
                self.answers.append(twin)
                source.append(i)
        return self._write(self.answers[first:], logits[source])

    # @learn:inference.batching
    @torch.inference_mode()
    def step(self) -> Progress:
        """Write one more token of every answer; finished answers leave."""
        last = torch.tensor([[answer.tokens[-1]] for answer in self.answers], device=self.device)
        with threads_at_rest(self.kernel):
            progress = self._write(self.answers, self._scores(last, 0))  # last is (B, 1)
        self._retire()
        return progress

    def leave(self, answer: Answer) -> None:
        """Give the row back, finished or not; the last row moves into the hole."""
        row, last = self.answers.index(answer), len(self.answers) - 1
        if row != last:
            self.cache.copy_row(last, row)
            self.answers[row] = self.answers[last]
        self.answers.pop()

    def _scores(self, tokens: Tensor, first: int) -> Tensor:
        """Feed tokens (B, T) to the rows from `first` on; the scores of what comes next, (B, V)."""
        view = self.cache.view(first, first + len(tokens))
        return next_scores(self.model, self.kernel, tokens, view)

    def _write(self, answers: list[Answer], logits: Tensor) -> Progress:
        """Give each answer its next token: the one it must take, else one drawn from its scores."""
        dice = [0.0 if answer.waiting else answer.dice.random() for answer in answers]
        drawn = next_tokens(self.kernel, logits, [answer.sampling for answer in answers], dice)
        progress: Progress = []
        for answer, token in zip(answers, drawn, strict=True):
            if token is None:
                raise BrokenScores(BROKEN)
            forced = bool(answer.waiting)
            if forced:
                token = answer.waiting.popleft()
            progress.append((answer, answer.accept(token, forced, self.capacity)))
        return progress

    def _retire(self) -> None:
        for answer in [a for a in self.answers if a.finish_reason]:
            self.leave(answer)


class Engine:
    """A model and its tokenizer, ready to answer. It remembers no conversation between calls."""

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, kernel: EngineKernel | None = None
    ) -> None:
        if tokenizer.vocab_size != model.config.vocab_size:
            raise VocabularyMismatch(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model "
                f"{model.config.vocab_size}: load the tokenizer that the model was trained with"
            )
        self.model, self.tokenizer, self.kernel = model, tokenizer, kernel
        self.context = model.config.sequence_len  # prompt and answer together, tokens

    def answer(self, prompt: Sequence[int], sampling: Sampling) -> Answer:
        """A checked request, to be given to a Batch. Raises PromptTooLong or EmptyPrompt."""
        self.check_prompt(prompt)
        return Answer(prompt, sampling, self.tokenizer)

    def check_prompt(self, prompt: Sequence[int]) -> None:
        """Refuse an empty prompt, and one that leaves no room for an answer."""
        if not len(prompt):
            raise EmptyPrompt("the prompt has no tokens: it begins with bos at least")
        if len(prompt) >= self.context:
            raise PromptTooLong(
                f"the prompt has {len(prompt)} tokens and the model's context holds "
                f"{self.context}, answer included: shorten the prompt"
            )

    def batch(self, answers: Sequence[Answer] = (), rows: int = MAX_BATCH) -> Batch:
        """An empty Batch of `rows` with room for these answers, or for anything."""
        longest = max(
            (len(a.prompt) + a.sampling.max_tokens for a in answers), default=self.context
        )
        return Batch(self.model, rows, min(longest, self.context), self.kernel)

    def stream(
        self, prompt: Sequence[int], sampling: Sampling | None = None
    ) -> Iterator[TokenEvent]:
        """The answer to one prompt, token by token. A bad prompt is refused here, not later."""
        return self.run(self.answer(prompt, sampling or Sampling()))

    def run(self, answer: Answer) -> Iterator[TokenEvent]:
        """Write one answer; whoever keeps it can read answer.parts, even of one cut short."""
        batch = self.batch([answer], rows=1)
        progress = batch.join([answer])
        while progress:
            yield from (event for _, event in progress)
            progress = batch.step() if batch.answers else []

    # @learn:inference.batching
    def generate_batch(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling] | None = None,
        max_batch: int = MAX_BATCH,
    ) -> list[Completion]:
        """Answer many prompts together; each comes out as if it had been asked alone.

        One Sampling serves all, its seed included: give a list to have several answers to a prompt.
        """
        if sampling is None or isinstance(sampling, Sampling):
            each: Sequence[Sampling] = [sampling or Sampling()] * len(prompts)
        else:
            each = sampling
        answers = [self.answer(p, s) for p, s in zip(prompts, each, strict=True)]
        if not answers:
            return []
        # Longest first: neighbours have similar lengths, and equal prompts stand together.
        waiting = deque(sorted(answers, key=lambda a: (len(a.prompt), a.prompt), reverse=True))
        batch = self.batch(answers, rows=min(max_batch, len(answers)))
        while waiting or batch.answers:
            # A few free rows wait for more, so that several prompts are read in one pass.
            if waiting and batch.free >= min(len(waiting), -(-batch.rows // 4)):
                count = min(batch.free, len(waiting))
                batch.join([waiting.popleft() for _ in range(count)])
            if batch.answers:
                batch.step()
        return [answer.completion() for answer in answers]

    def prompt_for(
        self, messages: Sequence[dict[str, Any]], max_tokens: int
    ) -> tuple[list[int], int]:
        """Messages ending with the user's -> (prompt ids, messages dropped to make them fit).

        Drops the oldest turns (a leading system message stays) until an answer of `max_tokens`, or
        a quarter of the context if that is less, has room. Raises PromptTooLong when the last
        message alone is too long.
        """
        lead = 1 if messages and messages[0].get("role") == "system" else 0
        room = self.context - min(max_tokens, self.context // 4)
        turns = (len(messages) - lead - 1) // 2  # earlier pairs of question and answer

        def prompt_without(dropped: int) -> list[int]:
            kept = [*messages[:lead], *messages[lead + 2 * dropped :]]
            return self.tokenizer.render_for_completion({"messages": kept})

        dropped = bisect_left(range(turns), True, key=lambda d: len(prompt_without(d)) <= room)
        prompt = prompt_without(dropped)
        self.check_prompt(prompt)
        return prompt, 2 * dropped
