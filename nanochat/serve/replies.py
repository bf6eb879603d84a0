"""An answer in OpenAI's shapes: token events -> deltas -> chunks, or one completion.

A tool call becomes `tool_calls`, whole in one delta, because its text is short; what the calculator
returned becomes `tool_results`, our extension. The last chunk holds finish_reason and usage, and as
extensions the seed that was used, `stop_detail` and `timings`; `dropped_messages` comes at once.
Called by chat_app.py. Read: Reply -> deltas -> flush -> chunk / completion -> sse.
"""

import json
import secrets
import time
from typing import Any

from nanochat.engine import TokenEvent
from nanochat.serve.engine_thread import Ticket
from nanochat.tokenizer import Tokenizer

Json = dict[str, Any]


class Reply:
    """Collects one answer while it is written, and shapes each piece for the wire."""

    def __init__(self, model: str, ticket: Ticket, tokenizer: Tokenizer, dropped: int = 0) -> None:
        self.model, self.ticket, self.dropped = model, ticket, dropped
        self.ends = {tokenizer.special("python_end"), tokenizer.special("output_end")}
        self.id = "chatcmpl-" + secrets.token_hex(12)
        self.created = int(time.time())
        self.kind, self.held = "text", ""  # a call or a result that is not complete yet
        self.message: Json = {"role": "assistant", "content": ""}
        self.tokens = 0
        self.first_at: float | None = None  # time.monotonic() of the first token
        self.stop_detail: str | None = None  # the engine's word: stop, length or context

    def deltas(self, event: TokenEvent) -> list[Json]:
        """What this token adds to the answer: often one delta, none inside a call."""
        self.tokens += 1
        if self.first_at is None:
            self.first_at = time.monotonic()
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
            "id": f"call_{self.id[-8:]}_{len(calls)}",
            "type": "function",
            "function": {"name": "calculator", "arguments": arguments},
        }
        calls.append(call)
        return [{"tool_calls": [{"index": len(calls) - 1} | call]}]

    def finish_reason(self) -> str:
        """OpenAI's clients know stop and length; a full context is a length."""
        return "stop" if self.stop_detail == "stop" else "length"

    def summary(self) -> Json:
        """usage, seed and timings: beside the last chunk and in a completion."""
        now, ticket = time.monotonic(), self.ticket
        first = self.first_at or now
        prompt, writing_s = len(ticket.answer.prompt), now - first
        return {
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": self.tokens,
                "total_tokens": prompt + self.tokens,
            },
            "seed": ticket.answer.sampling.seed,
            "stop_detail": self.stop_detail,
            "timings": {
                "queue_s": round(ticket.started_at - ticket.submitted_at, 4),
                "first_token_s": round(first - ticket.submitted_at, 4),
                "total_s": round(now - ticket.submitted_at, 4),
                # The first token ends the reading of the prompt; the others are the writing.
                "tokens_per_s": round((self.tokens - 1) / writing_s, 1) if writing_s else None,
            },
        }

    def chunk(self, delta: Json, finish_reason: str | None = None, **extra: Any) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return self._head("chat.completion.chunk") | {"choices": [choice]} | extra

    def completion(self) -> Json:
        """The whole answer in one object, for clients that don't stream."""
        choice = {"index": 0, "message": self.message, "finish_reason": self.finish_reason()}
        return (
            self._head("chat.completion")
            | {"choices": [choice], "dropped_messages": self.dropped}
            | self.summary()
        )

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def sse(data: Json | str) -> bytes:
    r"""One server-sent event.

    >>> sse("[DONE]")
    b'data: [DONE]\n\n'
    """
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return b"data: " + text.encode() + b"\n\n"
