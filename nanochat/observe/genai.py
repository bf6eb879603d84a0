"""An answer as OpenTelemetry's GenAI spans: queue, prefill, decode, detokenise in one inference.

These conventions are still in development and names move between versions, so this file is the one
place that knows them: semantic-conventions-genai as of May 2026. Texts of prompts and answers are
opt-in there and are never recorded here.
Called by generation.py once for each answer. Read: REQUEST -> spans_of.
"""

from typing import TYPE_CHECKING

from nanochat.observe.request_context import RequestContext, new_span_id
from nanochat.observe.tracing import Span, Value

if TYPE_CHECKING:
    from nanochat.observe.generation import Generation

PROVIDER = "nanochat"
REQUEST = {  # the field of the API -> the attribute of the span
    "model": "gen_ai.request.model",
    "seed": "gen_ai.request.seed",
    "stream": "gen_ai.request.stream",
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_k": "gen_ai.request.top_k",
    "top_p": "gen_ai.request.top_p",
    "stop_words": "nanochat.request.stop_words",  # how many; theirs holds the texts
    "n": "gen_ai.request.choice.count",
}


def spans_of(answer: "Generation", context: RequestContext, delivered_at: float) -> list[Span]:
    """The spans of an ended answer; a phase it never reached has none.

    `delivered_at` is when the last byte of the response left: between the last token and that, ids
    became text and text became bytes on their way, the phase called detokenise.
    """
    assert answer.ended_at is not None, "spans are made of ended answers"
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": answer.operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.response.model": answer.model,
        "gen_ai.response.finish_reasons": (answer.finish_reason or "error",),
        "gen_ai.usage.input_tokens": answer.prompt_tokens,
        "gen_ai.usage.output_tokens": answer.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": answer.cached_tokens,
        "nanochat.cost_usd": answer.cost_usd,
    }
    if answer.response_id:
        attributes["gen_ai.response.id"] = answer.response_id
    for name, value in answer.wishes.items():
        if name in REQUEST and value is not None:
            attributes[REQUEST[name]] = value
    if answer.first_token_at is not None:
        waited_s = answer.first_token_at - answer.queued_at
        attributes["gen_ai.response.time_to_first_chunk"] = waited_s
    end = max(answer.ended_at, delivered_at)
    name = f"{answer.operation} {answer.model}"
    whole = Span(
        name,
        context.trace_id,
        new_span_id(),
        context.span_id,
        answer.queued_at,
        end,
        attributes=attributes,
        error=answer.error_type or "",
    )
    return [whole, *phases(answer, whole)]


def phases(answer: "Generation", whole: Span) -> list[Span]:
    """What the answer's time went to, without gaps: each phase ends where the next begins."""
    moments = [
        ("queue", answer.queued_at),
        ("prefill", answer.scheduled_at),
        ("decode", answer.first_token_at),
        ("detokenise", answer.last_token_at),
    ]
    reached = [(name, start) for name, start in moments if start is not None]
    ends = [start for _, start in reached[1:]] + [whole.end]
    return [
        Span(name, whole.trace_id, new_span_id(), whole.span_id, start, end)
        for (name, start), end in zip(reached, ends, strict=True)
    ]
