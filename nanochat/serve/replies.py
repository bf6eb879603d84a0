"""An answer in OpenAI's shapes: tokens -> deltas -> chunks, or one completion.

A tool call becomes `tool_calls`, whole in one delta, because its text is short; what the calculator
returned becomes `tool_results`, our extension. Beside usage stand more of ours: the seed that was
used, `stop_detail` and `timings`; `dropped_messages` comes with the first chunk.
Called by openai_api.py. Read: Choice -> Reply -> ChatReply -> TextReply -> sse.
"""

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from nanochat.scheduler import Chance, Written
from nanochat.serve.engine_thread import Ticket, Tickets
from nanochat.tokenizer import Tokenizer

Json = dict[str, Any]
quoted = json.encoder.encode_basestring_ascii  # a text as JSON, without the cost of json.dumps


class Choice:
    """One of the answers to a request, collected while it is written."""

    def __init__(self, ticket: Ticket, ends: set[int], call_id: str) -> None:
        """`call_id` begins the ids of its tool calls."""
        self.ticket, self.ends, self.call_id = ticket, ends, call_id
        self.kind, self.held = "text", ""  # a call or a result that is not complete yet
        self.message: Json = {"role": "assistant", "content": ""}
        self.tokens = 0
        self.stop_detail: str | None = None  # the engine's word: stop, length or context
        self.logprobs: list[Json] = []
        self.unsent: list[Json] = []  # of tokens whose text was not complete yet

    def deltas(self, written: Written) -> list[Json]:
        """What this token adds to the answer: often one delta, none inside a call."""
        event = written.event
        self.tokens += 1
        found = [] if event.kind == self.kind else self.flush()
        self.kind = event.kind
        if event.kind != "text":
            self.held += event.text
        elif event.text:
            self.message["content"] += event.text
            found.append({"content": event.text})
        if event.token in self.ends or event.finish_reason:
            found += self.flush()
        self.stop_detail = event.finish_reason
        return found

    def flush(self) -> list[Json]:
        """The call or the result that has just ended, as a delta."""
        held, self.held = self.held, ""
        if self.kind == "text" or not held:
            return []
        calls = self.message.setdefault("tool_calls", [])
        if self.kind == "tool_result":
            result = {"tool_call_id": calls[-1]["id"], "content": held}
            self.message.setdefault("tool_results", []).append(result)
            return [{"tool_results": [result]}]
        arguments = json.dumps({"expression": held}, ensure_ascii=False)
        call: Json = {
            "id": f"{self.call_id}_{len(calls)}",
            "type": "function",
            "function": {"name": "calculator", "arguments": arguments},
        }
        calls.append(call)
        return [{"tool_calls": [{"index": len(calls) - 1} | call]}]

    def finish_reason(self) -> str:
        """OpenAI's clients know stop and length; a full context is a length."""
        return "stop" if self.stop_detail == "stop" else "length"


class Reply:
    """All answers to one request, and the frames they travel in."""

    chunk_object = whole_object = id_prefix = ""

    def __init__(
        self,
        model: str,
        tickets: Tickets,
        tokenizer: Tokenizer,
        prompt_tokens: int,
        dropped: int = 0,
    ) -> None:
        """`prompt_tokens`: of all prompts together, each counted once, however many answers."""
        self.model, self.tickets, self.tokenizer = model, tickets, tokenizer
        self.prompt_tokens, self.dropped = prompt_tokens, dropped
        ends = {tokenizer.special("python_end"), tokenizer.special("output_end")}
        number = secrets.token_hex(12)
        self.id = self.id_prefix + number
        self.choices = [
            Choice(ticket, ends, f"call_{number}_{i}") for i, ticket in enumerate(tickets)
        ]
        self.created = int(time.time())
        head = json.dumps(self._head(self.chunk_object), separators=(",", ":"))[:-1]
        self.frames = [
            f'data: {head},"choices":[{{"index":{i},{self.text_key}:'
            for i in range(len(self.choices))
        ]

    text_key = ""  # what stands before the text of a chunk
    text_end = ""  # and after it

    def text_frame(self, index: int, text: str) -> bytes:
        """The event of a piece of text: most of a stream is these, so nothing is built anew."""
        return f"{self.frames[index]}{quoted(text)}{self.text_end}\n\n".encode()

    def opening(self) -> Iterator[Json]:
        """Chunks before the first token."""
        return iter(())

    def collect(self, ticket: Ticket, written: Written) -> Choice:
        """Add a token to its answer, for a client that waits for the whole."""
        choice = self.choices[ticket.index]
        choice.deltas(written)
        choice.logprobs += self.chances(written)
        return choice

    def events(self, ticket: Ticket, written: Written) -> Iterator[bytes]:
        """The server-sent events of one token."""
        raise NotImplementedError

    def last_chunk(self, choice: Choice) -> Json:
        raise NotImplementedError

    def chances(self, written: Written) -> list[Json]:
        """Of a word's token: one; of a special token, which is not part of the text: none."""
        if written.chosen is None or written.chosen.token >= self.tokenizer.special("bos"):
            return []
        return [self.chance(written.chosen, written.others)]

    def chance(self, chosen: Chance, others: Sequence[Chance]) -> Json:
        """A token with its probability and its rivals, as chat completions write them."""
        rivals = [self._chance(other) for other in others]
        return self._chance(chosen) | {"top_logprobs": rivals}

    def _chance(self, chance: Chance) -> Json:
        raw = self.tokenizer.decode_bytes([chance.token])
        text = raw.decode("utf-8", "replace")
        return {"token": text, "logprob": chance.logprob, "bytes": list(raw)}

    def written(self) -> int:
        """Tokens of all answers so far."""
        return sum(choice.tokens for choice in self.choices)

    def summary(self) -> Json:
        """usage, seed and timings: at the end of a stream and in a completion."""
        now, first = time.monotonic(), self.choices[0]
        ticket = first.ticket
        written = self.written()
        # When tokens were written, not when this thread came to hear of them, several at once.
        asked = [choice.ticket.request for choice in self.choices]
        began = min((r.first_at for r in asked if r.first_at is not None), default=now)
        queued_s = (ticket.request.began or now) - ticket.submitted_at
        spent_s = max(r.last_at or now for r in asked) - began
        return {
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": written,
                "total_tokens": self.prompt_tokens + written,
            },
            "seed": ticket.request.answer.sampling.seed,
            "stop_detail": first.stop_detail,
            "timings": {
                "queue_s": round(max(0.0, queued_s), 4),
                "first_token_s": round(began - ticket.submitted_at, 4),
                "total_s": round(now - ticket.submitted_at, 4),
                # The first token ends the reading of the prompt; the others are the writing.
                "tokens_per_s": round((written - len(self.choices)) / spent_s, 1)
                if spent_s
                else None,
            },
        }

    def usage_chunk(self) -> Json:
        return self._head(self.chunk_object) | {"choices": []} | self.summary()

    def completion(self) -> Json:
        """The whole answer in one object, for clients that don't stream."""
        choices = [self.whole_choice(choice) for choice in self.choices]
        return (
            self._head(self.whole_object)
            | {"choices": choices, "dropped_messages": self.dropped}
            | self.summary()
        )

    def whole_choice(self, choice: Choice) -> Json:
        raise NotImplementedError

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class ChatReply(Reply):
    """POST /v1/chat/completions."""

    chunk_object, whole_object = "chat.completion.chunk", "chat.completion"
    id_prefix = "chatcmpl-"
    text_key, text_end = '"delta":{"content"', '},"finish_reason":null}]}'

    def opening(self) -> Iterator[Json]:
        for index in range(len(self.choices)):
            role = {"role": "assistant", "content": ""}
            yield self.chunk(index, role) | {"dropped_messages": self.dropped}

    def events(self, ticket: Ticket, written: Written) -> Iterator[bytes]:
        """The frames that one more token adds to the stream."""
        choice = self.choices[ticket.index]
        choice.unsent += self.chances(written)
        for delta in choice.deltas(written):
            if "content" in delta and choice.unsent:
                chances, choice.unsent = choice.unsent, []
                yield sse(self.chunk(ticket.index, delta, logprobs={"content": chances}))
            elif "content" in delta:
                yield self.text_frame(ticket.index, delta["content"])
            else:
                yield sse(self.chunk(ticket.index, delta))

    def chunk(self, index: int, delta: Json, reason: str | None = None, **more: Any) -> Json:
        choice = {"index": index, "delta": delta, "finish_reason": reason} | more
        return self._head(self.chunk_object) | {"choices": [choice]}

    def last_chunk(self, choice: Choice) -> Json:
        return self.chunk(choice.ticket.index, {}, choice.finish_reason())

    def whole_choice(self, choice: Choice) -> Json:
        """A finished answer as a choice of chat.completion."""
        shown = {
            "index": choice.ticket.index,
            "message": choice.message,
            "finish_reason": choice.finish_reason(),
        }
        return shown | {"logprobs": {"content": choice.logprobs} if choice.logprobs else None}


class TextReply(Reply):
    """POST /v1/completions."""

    chunk_object = whole_object = "text_completion"
    id_prefix = "cmpl-"
    text_key, text_end = '"text"', ',"logprobs":null,"finish_reason":null}]}'

    def events(self, ticket: Ticket, written: Written) -> Iterator[bytes]:
        """The frames that one more token adds to the stream."""
        choice = self.choices[ticket.index]
        before = len(choice.message["content"])
        choice.unsent += self.chances(written)
        for delta in choice.deltas(written):
            if "content" in delta and choice.unsent:
                chances, choice.unsent = choice.unsent, []
                listed = self.listed(chances, before)
                yield sse(self.chunk(ticket.index, delta["content"], listed))
            elif "content" in delta:
                yield self.text_frame(ticket.index, delta["content"])

    def chunk(
        self, index: int, text: str, logprobs: Json | None = None, reason: str | None = None
    ) -> Json:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return self._head(self.chunk_object) | {"choices": [choice]}

    def last_chunk(self, choice: Choice) -> Json:
        return self.chunk(choice.ticket.index, "", None, choice.finish_reason())

    def whole_choice(self, choice: Choice) -> Json:
        """A finished answer as a choice of text_completion."""
        return {
            "index": choice.ticket.index,
            "text": choice.message["content"],
            "logprobs": self.listed(choice.logprobs) if choice.logprobs else None,
            "finish_reason": choice.finish_reason(),
        }

    def listed(self, chances: Sequence[Json], offset: int = 0) -> Json:
        """The older shape: parallel lists."""
        offsets = []
        for chance in chances:
            offsets.append(offset)
            offset += len(chance["token"])
        return {
            "tokens": [c["token"] for c in chances],
            "token_logprobs": [c["logprob"] for c in chances],
            "top_logprobs": [
                {rival["token"]: rival["logprob"] for rival in c["top_logprobs"]} for c in chances
            ],
            "text_offset": offsets,
        }


def sse(data: Json | str) -> bytes:
    r"""One server-sent event.

    >>> sse("[DONE]")
    b'data: [DONE]\n\n'
    """
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return b"data: " + text.encode() + b"\n\n"
