"""What Prometheus reads from /metrics: vLLM's names with our prefix, plus HTTP, cost and machine.

A dashboard written for vLLM ports by replacing `vllm:` with `nanochat_`. Buckets are vLLM's, with
finer ones below 100 ms, where a small model lives. Series are labelled by model, route template,
method and status only: never by request id, path or user, whose number has no bound.
What is a state rather than an event (running, waiting, cache use) is asked for at each scrape, so
it can't drift. Called by generation.py, middleware.py and serve/.
Read: ServerMetrics -> HttpSeries -> Readings.
Not covered: `iteration_tokens_total`, a histogram whose name promtool refuses.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from nanochat.observe.generation import Generation

# vLLM 0.33's buckets behind finer ones for models that need milliseconds.
FIRST_TOKEN_S: tuple[float, ...] = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08),
    *(0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
TOKEN_GAP_S: tuple[float, ...] = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80),
)
WHOLE_S: tuple[float, ...] = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5),
    *(5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680),
)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
COUNTS = (1, 2, 5, 10, 20)
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}  # any other is "OTHER"

COUNTERS = {
    "prompt_tokens": "Prompt tokens of answers that began",
    "generation_tokens": "Tokens written",
    "prompt_tokens_cached": "Prompt tokens that the prefix cache held already",
    "prefix_cache_queries": "Prompt tokens looked up in the prefix cache",
    "prefix_cache_hits": "Prompt tokens found in the prefix cache",
    "num_preemptions": "Answers that gave their place back for a while",
    "corrupted_requests": "Answers ended because the scores were not numbers",
}
HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "time_to_first_token_seconds": ("From the request's arrival to its first token", FIRST_TOKEN_S),
    "inter_token_latency_seconds": ("Between two tokens of one answer", TOKEN_GAP_S),
    "request_time_per_output_token_seconds": ("Mean gap between an answer's tokens", TOKEN_GAP_S),
    "e2e_request_latency_seconds": ("From arrival to the last token", WHOLE_S),
    "request_queue_time_seconds": ("From arrival to the start of its prompt", WHOLE_S),
    "request_prefill_time_seconds": ("From the start of its prompt to the first token", WHOLE_S),
    "request_decode_time_seconds": ("From the first token to the last", WHOLE_S),
    "request_inference_time_seconds": ("From the start of its prompt to the last token", WHOLE_S),
    "request_prompt_tokens": ("Length of the prompt", TOKENS),
    "request_generation_tokens": ("Length of the answer", TOKENS),
    "request_params_max_tokens": ("The longest answer that was allowed", TOKENS),
    "request_params_n": ("Answers asked for in one request", COUNTS),
    "request_num_preemptions": ("How often an answer gave its place back", (0, 1, 2, 5, 10)),
    "request_prefill_kv_computed_tokens": ("Prompt tokens read, cached ones apart", TOKENS),
}


# @learn:production.metrics
class ServerMetrics:
    """Every series of one server, in a registry of its own. Any thread may call any method."""

    def __init__(self, model: str, build: Mapping[str, str]) -> None:
        disable_created_metrics()  # the *_created twins double the page and nobody reads them
        self.registry = CollectorRegistry()
        self.labels = {"model_name": model, "engine": "0"}
        events = {name: self._counter(name, about) for name, about in COUNTERS.items()}
        self.prompt_tokens = events["prompt_tokens"]
        self.generation_tokens = events["generation_tokens"]
        self.cached_tokens = events["prompt_tokens_cached"]
        self.prefix_queries = events["prefix_cache_queries"]
        self.prefix_hits = events["prefix_cache_hits"]
        self.preemptions, self.corrupted = events["num_preemptions"], events["corrupted_requests"]
        self.histograms = {
            name: self._histogram(name, about, buckets)
            for name, (about, buckets) in HISTOGRAMS.items()
        }
        self.time_to_first_token = self.histograms["time_to_first_token_seconds"]
        self.inter_token_latency = self.histograms["inter_token_latency_seconds"]
        self.queue_time = self.histograms["request_queue_time_seconds"]
        names = (*self.labels, "finished_reason")
        self._ended = self._new(Counter, "request_success", "Answers ended, by reason", names)
        self._refused = self._new(
            Counter, "admission_rejections", "Requests refused", (*self.labels, "reason")
        )
        for reason in ("stop", "length", "abort", "error"):
            self._ended.labels(**self.labels, finished_reason=reason)  # a rate needs its zero
        self.http = HttpSeries()
        self.registry.register(Readings(self.http.collect))
        info = self._new(Gauge, "build_info", "What is running; always 1", tuple(build))
        info.labels(**build).set(1)

    def _new(self, kind: Any, name: str, about: str, labels: Iterable[str], **more: Any) -> Any:
        return kind(f"nanochat_{name}", about, labels, registry=self.registry, **more)

    def _counter(self, name: str, about: str) -> Counter:
        return self._new(Counter, name, about, self.labels).labels(**self.labels)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        unbound = self._new(Histogram, name, about, self.labels, buckets=buckets)
        return unbound.labels(**self.labels)

    # --- events ---

    def prompt_read(self, tokens: int, cached: int) -> None:
        """Count a prompt's tokens, and how many of them were remembered."""
        self.prompt_tokens.inc(tokens)
        self.cached_tokens.inc(cached)
        self.prefix_queries.inc(tokens)
        self.prefix_hits.inc(cached)

    def refused(self, reason: str) -> None:
        """A request was turned away; `reason` is one of a few words, never a sentence."""
        self._refused.labels(**self.labels, reason=reason).inc()

    def asked(self, answers: int) -> None:
        """A request for so many answers was accepted."""
        self.histograms["request_params_n"].observe(answers)

    def answer_ended(self, answer: "Generation") -> None:
        """The histograms that need the whole answer, fed once it has ended."""
        assert answer.ended_at is not None, "called at the end"
        self._ended.labels(**self.labels, finished_reason=answer.finish_reason).inc()
        observed: dict[str, float] = {
            "e2e_request_latency_seconds": answer.ended_at - answer.queued_at,
            "request_prompt_tokens": answer.prompt_tokens,
            "request_generation_tokens": answer.completion_tokens,
            "request_params_max_tokens": answer.max_tokens,
            "request_num_preemptions": answer.preemptions,
        }
        first, last = answer.first_token_at, answer.last_token_at
        if answer.scheduled_at is not None and first is not None and last is not None:
            observed["request_prefill_time_seconds"] = first - answer.scheduled_at
            observed["request_decode_time_seconds"] = last - first
            observed["request_inference_time_seconds"] = last - answer.scheduled_at
            computed = answer.prompt_tokens - answer.cached_tokens
            observed["request_prefill_kv_computed_tokens"] = computed
            if answer.completion_tokens > 1:
                gap_s = (last - first) / (answer.completion_tokens - 1)
                observed["request_time_per_output_token_seconds"] = gap_s
        for name, value in observed.items():
            self.histograms[name].observe(value)

    # --- states, asked for at each scrape ---

    def watch_engine(self, read: Callable[[], Mapping[str, float]]) -> None:
        """`read` returns running, waiting and kv_cache_usage (0 to 1), all of one moment."""

        def collect() -> Iterable[Metric]:
            now = read()
            yield self._state("num_requests_running", "Answers being written", now["running"])
            yield self._state("num_requests_waiting", "Requests in the queue", now["waiting"])
            used = now["kv_cache_usage"]
            yield self._state("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1", used)

        self.registry.register(Readings(collect))

    def watch_costs(self, totals: Callable[[], Mapping[str, float]]) -> None:
        """`totals` returns dollars since the start by state, busy and idle."""

        def collect() -> Iterable[Metric]:
            about = "Price of the machine so far, by what it did"
            family = CounterMetricFamily("nanochat_cost_usd", about, labels=("state",))
            for state, dollars in totals().items():
                family.add_metric((state,), dollars)
            yield family

        self.registry.register(Readings(collect))

    def watch_count(self, name: str, about: str, read: Callable[[], float]) -> None:
        """A counter that lives elsewhere, such as log lines that were lost."""
        self.registry.register(
            Readings(lambda: [CounterMetricFamily(f"nanochat_{name}", about, value=read())])
        )

    def _state(self, name: str, about: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"nanochat_{name}", about, labels=tuple(self.labels))
        family.add_metric(tuple(self.labels.values()), value)
        return family

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """(the page, its Content-Type); `accept` is the scraper's Accept header."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class HttpSeries:
    """Count and duration of HTTP requests. Told by the event loop only, so it needs no lock.

    Every request passes here, so this takes a tenth of the time of the library's own classes.
    """

    def __init__(self) -> None:
        # (route, method, status) -> how many requests fell into each bucket; the last has no bound
        self.buckets: dict[tuple[str, str, int], list[int]] = {}
        self.seconds: dict[tuple[str, str, int], float] = {}

    def ended(self, route: str, method: str, status: int, seconds: float) -> None:
        """`route` is a template such as /v1/models/{model}, or "unmatched"."""
        key = (route, method if method in METHODS else "OTHER", status)
        if key not in self.buckets:
            self.seconds[key] = 0.0
            self.buckets[key] = [0] * (len(WHOLE_S) + 1)
        self.seconds[key] += seconds
        self.buckets[key][bisect_left(WHOLE_S, seconds)] += 1

    def collect(self) -> Iterable[Metric]:
        """The HTTP figures in the form Prometheus reads."""
        requests = CounterMetricFamily(
            "nanochat_http_requests",
            "HTTP requests answered",
            labels=("route", "method", "status"),
        )
        durations = HistogramMetricFamily(
            "nanochat_http_request_duration_seconds",
            "From request to the last byte of its answer",
            labels=("route", "method"),
        )
        merged: dict[tuple[str, str], tuple[list[int], float]] = {}
        for key, buckets in list(self.buckets.items()):
            route, method, status = key
            requests.add_metric((route, method, str(status)), sum(buckets))
            counts, seconds = merged.get((route, method), ([0] * len(buckets), 0.0))
            counts = [one + other for one, other in zip(counts, buckets, strict=True)]
            merged[route, method] = counts, seconds + self.seconds[key]
        names = [*map(floatToGoString, WHOLE_S), "+Inf"]
        for labels, (counts, seconds) in merged.items():
            rising = list(zip(names, accumulate(counts), strict=True))
            durations.add_metric(labels, rising, seconds)
        yield requests
        yield durations


class Readings:
    """A function as the collector that a registry wants."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self.collect = collect

    def describe(self) -> list[Metric]:
        return []  # so that registering does not read anything yet
