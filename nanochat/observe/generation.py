"""The life of one answer: queued -> scheduled -> tokens -> end, each moment told once.

The scheduler tells a Generation what happens to its answer; a Generation updates the metrics and
the bill as it goes, and knows in the end what the log line and the spans have to say. It never
holds a text: prompts and answers can't leak from here.
Called by serve/ through an Observer; read by middleware.py. Read: Generation -> Observer.
Not covered: two threads telling one Generation at once; the scheduler is one thread.
"""

import threading
import time
from collections.abc import Mapping
from typing import Any

from nanochat.observe.cost import CostMeter
from nanochat.observe.genai import spans_of
from nanochat.observe.metrics import ServerMetrics
from nanochat.observe.request_context import RequestContext, current
from nanochat.observe.tracing import Tracer

ENDS = ("stop", "length", "abort", "error")  # what vLLM calls finished_reason


class Generation:
    """One answer. Times are seconds of time.monotonic(); None until the moment came."""

    def __init__(
        self,
        observer: "Observer",
        prompt_tokens: int,
        max_tokens: int,
        operation: str = "chat",
        wishes: Mapping[str, Any] | None = None,
        response_id: str = "",
    ) -> None:
        """`operation`: chat or text_completion. `wishes`: the request's fields, texts apart."""
        self.observer, self.metrics = observer, observer.metrics
        self.prompt_tokens, self.max_tokens = prompt_tokens, max_tokens
        self.operation, self.wishes, self.response_id = operation, wishes or {}, response_id
        self.model = observer.metrics.labels["model_name"]
        self.queued_at = time.monotonic()
        self.scheduled_at: float | None = None
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self.ended_at: float | None = None
        self.cached_tokens = self.completion_tokens = self.preemptions = 0
        self.finish_reason: str | None = None
        self.error_type: str | None = None
        self.cost_usd = 0.0
        self._joined: float | None = None  # the cost meter's receipt while it runs
        self._delivery: tuple[RequestContext, float] | None = None  # the request's end
        self._ending = threading.Lock()  # scheduler and event loop may both be the last

    def scheduled(self, cached_tokens: int = 0) -> None:
        """Its turn came: the prompt is being read, but for what the prefix cache already had."""
        if self.scheduled_at is None:
            self.scheduled_at = time.monotonic()
            self.cached_tokens = cached_tokens
            self.metrics.prompt_read(self.prompt_tokens, cached_tokens)
            self.metrics.queue_time.observe(self.scheduled_at - self.queued_at)
        if self._joined is None:
            self._joined = self.observer.costs.join()

    def preempted(self) -> None:
        """It gave its place back and waits for another turn."""
        self.preemptions += 1
        self.metrics.preemptions.inc()
        self._pay()

    def token(self, count: int = 1) -> None:
        """`count` more tokens are there, all of one step."""
        now = time.monotonic()
        if self.last_token_at is None:
            self.first_token_at = now
            self.metrics.time_to_first_token.observe(now - self.queued_at)
        else:
            self.metrics.inter_token_latency.observe(now - self.last_token_at)
        self.last_token_at = now
        self.completion_tokens += count
        self.metrics.generation_tokens.inc(count)

    def end(self, reason: str, error_type: str = "") -> None:
        """The one terminal event: `reason` is one of ENDS. A second one changes nothing."""
        assert reason in ENDS, f"{reason}: one of {ENDS}"
        if self.ended_at is not None:
            return
        self.finish_reason, self.error_type = reason, error_type or None
        self._pay()
        with self._ending:
            self.ended_at = time.monotonic()
            self._trace()
        self.metrics.answer_ended(self)
        if error_type == "nan_logits":
            self.metrics.corrupted.inc()

    def delivered(self, context: RequestContext) -> None:
        """The request's response is over, complete or not; the answer may still have to end."""
        with self._ending:
            self._delivery = context, time.monotonic()
            self._trace()

    def _trace(self) -> None:
        """Once both ends are known, the spans."""
        tracer = self.observer.tracer
        if tracer and self._delivery and self.ended_at is not None and self._delivery[0].sampled:
            tracer.record(*spans_of(self, *self._delivery))

    def _pay(self) -> None:
        if self._joined is not None:
            self.cost_usd += self.observer.costs.leave(self._joined)
            self._joined = None

    def log_fields(self) -> dict[str, Any]:
        """For the log line; what has not happened (yet) is left out."""
        fields: dict[str, Any] = {
            "model": self.model,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "finish_reason": self.finish_reason or "abort",  # asked before it has left the batch
        }
        if self.cached_tokens:
            fields["cached_tokens"] = self.cached_tokens
        if self.scheduled_at is not None:
            fields["queue_ms"] = round(1e3 * (self.scheduled_at - self.queued_at), 3)
        if self.first_token_at is not None:
            fields["ttft_ms"] = round(1e3 * (self.first_token_at - self.queued_at), 3)
        if self.cost_usd:
            fields["cost_usd"] = float(f"{self.cost_usd:.3g}")
        if self.error_type:
            fields["error_type"] = self.error_type
        return fields


class Observer:
    """What a server holds: metrics, bill and tracer, and the door to a new Generation."""

    def __init__(
        self, metrics: ServerMetrics, costs: CostMeter, tracer: Tracer | None = None
    ) -> None:
        self.metrics, self.costs, self.tracer = metrics, costs, tracer
        metrics.watch_costs(costs.totals)
        if tracer is not None:
            about = "Spans that reached the collector"
            metrics.watch_count("spans_sent", about, lambda: tracer.sent)
            about = "Spans lost because the collector was slow, down or refused them"
            metrics.watch_count("spans_dropped", about, lambda: tracer.dropped)

    def begin(self, prompt_tokens: int, max_tokens: int, **about: Any) -> Generation:
        """An answer was queued. Call it in the event loop, where `current` is its request.

        `about`: operation, wishes and response_id, as in Generation.
        """
        generation = Generation(self, prompt_tokens, max_tokens, **about)
        context: RequestContext | None = current.get()
        if context is not None:
            context.generations.append(generation)
        return generation
