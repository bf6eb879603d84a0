"""Outcomes -> numbers, a table, a picture.

Terms as vLLM's benchmark defines them. TTFT: from sending to the first token. ITL: each gap between
tokens. TPOT: the mean gap of a request. Goodput: requests a second that met every limit; a server
that answers everybody too late has none.
Called by scripts/load_test.py. Read: percentile -> summary -> table -> picture.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from nanochat.load_client import Outcome
from nanochat.load_plan import LoadSettings
from nanochat.load_run import GAUGES, LoadTest, Phase
from nanochat.picture import bar_chart_svg, line_chart_svg

Json = dict[str, Any]
PERCENTS = (50, 95, 99)


# @learn:production.percentiles
def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest value that at least `percent` of all do not exceed; None without any.

    >>> percentile([40.0, 10.0, 30.0, 20.0], 50), percentile([5.0], 99), percentile([], 50)
    (20.0, 5.0, None)
    """
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


# @learn:production.percentiles
def percentiles_ms(seconds: Iterable[float | None]) -> dict[str, float | None]:
    known = [1e3 * value for value in seconds if value is not None]
    found = {f"p{percent}": percentile(known, percent) for percent in PERCENTS}
    return {name: None if value is None else round(value, 3) for name, value in found.items()}


# @learn:production.slo
def is_good(outcome: Outcome, settings: LoadSettings) -> bool:
    """Answered, and within both limits as far as they apply to it."""
    ttft_s, tpot_s = outcome.ttft_s, outcome.tpot_s
    return (
        outcome.answered
        and (ttft_s is None or 1e3 * ttft_s <= settings.slo_ttft_ms)
        and (tpot_s is None or 1e3 * tpot_s <= settings.slo_tpot_ms)
    )


def tokens_in(outcome: Outcome, began: float, ended: float) -> float:
    """How many of its tokens came inside the window."""
    if not outcome.pieces:
        inside = began <= outcome.ended_at <= ended
        return outcome.completion_tokens if inside else 0
    # A cut-off stream tells no usage; then each piece stands for a token.
    total = outcome.completion_tokens or len(outcome.pieces)
    arrived = sum(began <= at <= ended for at in outcome.pieces)
    return total * arrived / len(outcome.pieces)


def summary(phase: Phase, settings: LoadSettings) -> Json:
    """The numbers of one phase; counted by the window that each request was sent in."""
    seconds = phase.ended - phase.began
    sent = [o for o in phase.outcomes if phase.began <= o.sent_at <= phase.ended]
    answered = [o for o in sent if o.answered]
    tokens = sum(tokens_in(o, phase.began, phase.ended) for o in phase.outcomes)
    # In a closed loop the last ones end after the window: count by end there, by start if open.
    counted = sent
    if phase.offered_rps is None:
        counted = [o for o in phase.outcomes if phase.began <= o.ended_at <= phase.ended]
    good = sum(is_good(o, settings) for o in counted)
    gaps = [b - a for o in answered if o.streamed for a, b in pairwise(o.pieces)]
    numbers: Json = {
        "phase": phase.name,
        "seconds": round(seconds, 3),
        "requests": len(sent),
        "answered_rps": round(sum(o.answered for o in counted) / seconds, 3),
        "tokens_per_s": round(tokens / seconds, 1),
        "ttft_ms": percentiles_ms(o.ttft_s for o in answered),
        "tpot_ms": percentiles_ms(o.tpot_s for o in answered),
        "itl_ms": percentiles_ms(gaps),
        "e2e_ms": percentiles_ms(o.ended_at - o.sent_at for o in answered),
        "livez_ms": percentiles_ms(phase.probes_s),
        "failed_probes": phase.failed_probes,
        "goodput_rps": round(good / seconds, 3),
        "rejected": sum(o.rejected for o in sent),
        "disconnected": sum(o.left for o in sent),
        "errors": sum(is_error(o) for o in sent),
    }
    if phase.offered_rps is not None:
        numbers["offered_rps"] = round(phase.offered_rps, 3)
    kinds = sorted({o.error for o in sent if is_error(o)})
    if kinds:
        numbers["error_kinds"] = kinds[:5]
    if settings.usd_per_hour and tokens:
        dollars = settings.usd_per_hour / 3600 * seconds
        numbers["usd_per_million_tokens"] = round(1e6 * dollars / tokens, 4)
    return numbers


def is_error(outcome: Outcome) -> bool:
    """Neither answered nor turned away politely, and the client did not leave by itself."""
    return not (outcome.answered or outcome.rejected or outcome.left)


def record(test: LoadTest, rows: Sequence[Json], settings: LoadSettings) -> Json:
    """What --json prints: the last phase's numbers on top, all phases below."""
    found = {name: value for name, value in rows[-1].items() if name != "phase"}
    if test.phases[0].name == "1 client":
        found["tokens_per_s_one_client"] = rows[0]["tokens_per_s"]
        if rows[0]["tokens_per_s"]:
            found["speedup"] = round(found["tokens_per_s"] / rows[0]["tokens_per_s"], 2)
    if settings.overload:
        peak = max(row["goodput_rps"] for row in rows[:-1])
        found["peak_goodput_rps"] = peak
        found["goodput_share"] = round(found["goodput_rps"] / peak, 3) if peak else None
        found["errors"] = sum(row["errors"] for row in rows)
    found["clients"] = settings.clients
    found["slo_ms"] = {"ttft": settings.slo_ttft_ms, "tpot": settings.slo_tpot_ms}
    found["gauges_after"] = {name: test.after[name] for name in GAUGES if name in test.after}
    before, after = (readings.get("resident_bytes") for readings in (test.before, test.after))
    if before and after:
        found["resident_mb"] = {"before": round(before / 1e6, 1), "after": round(after / 1e6, 1)}
        found["memory_growth"] = round(after / before - 1, 4)
    return found | {"phases": list(rows)}


def table(rows: Sequence[Json]) -> str:
    """The phases side by side, for people."""
    lines = {
        "arrivals a second": [number(row.get("offered_rps"), "closed loop") for row in rows],
        "requests": [str(row["requests"]) for row in rows],
        "tokens a second": [number(row["tokens_per_s"]) for row in rows],
        "answers a second": [number(row["answered_rps"]) for row in rows],
        "good ones a second": [number(row["goodput_rps"]) for row in rows],
    }
    names = {"ttft_ms": "first token", "itl_ms": "gap between tokens", "tpot_ms": "mean gap"}
    names |= {"e2e_ms": "whole answer", "livez_ms": "/livez"}
    for key, name in names.items():
        shown = [" / ".join(number(row[key][f"p{p}"]) for p in PERCENTS) for row in rows]
        lines[f"{name}, ms p50/p95/p99"] = shown
    for key in ("rejected", "disconnected", "errors"):
        lines[key] = [str(row[key]) for row in rows]
    heads = [row["phase"] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *lines.values(), strict=True)]
    left = max(map(len, lines))

    def line(name: str, cells: Sequence[str]) -> str:
        padded = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        return f"{name:<{left}}  " + "  ".join(padded)

    return "\n".join([line("", heads), *(line(name, cells) for name, cells in lines.items())])


def number(value: float | None, missing: str = "-") -> str:
    if value is None:
        return missing
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def picture(rows: Sequence[Json], phases: Sequence[Phase]) -> str:
    """An overload test as bars (offered, good, turned away); any other as its curve of waiting."""
    if any(phase.offered_rps is not None for phase in phases) and len(rows) > 1:
        bars = {}
        for row in rows:
            bars[row["phase"]] = {
                "answered in time": row["goodput_rps"],
                "turned away": row["rejected"] / row["seconds"],
                "failed": row["errors"] / row["seconds"],
            }
        return bar_chart_svg(
            "Load test: what became of the requests", bars, "", "requests a second"
        )
    answered = [outcome for outcome in phases[-1].outcomes if outcome.answered]
    gaps = [b - a for outcome in answered if outcome.streamed for a, b in pairwise(outcome.pieces)]
    waits = {
        "first token": [o.ttft_s for o in answered if o.ttft_s is not None],
        "whole answer": [o.ended_at - o.sent_at for o in answered],
        "gap between tokens": gaps,
    }
    curves = {name: curve(values) for name, values in waits.items() if values}
    title = f"Load test: {phases[-1].name}"
    return line_chart_svg(title, curves, "share of requests, %", "milliseconds or less")


def curve(seconds: Sequence[float]) -> list[tuple[float, float]]:
    """(percent, milliseconds that so many percent do not exceed)."""
    ordered = sorted(seconds)
    percents = [*range(1, 100, 2), 99.5, 100]
    return [(p, 1e3 * ordered[max(0, math.ceil(p / 100 * len(ordered)) - 1)]) for p in percents]
