"""The files of a study: results.csv, .jsonl, .json, report.md, effects.svg, and timing.csv.

All but timing.csv depend on results only, so a study that was interrupted ends with the same bytes.
Called by `nanochat scalar ablate`. Read: write_study -> markdown -> picture.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from nanochat.scalar.ablation import METRICS, Axis, Effect
from nanochat.scalar.checkpoint import write_atomically
from nanochat.scalar.statistics import interval

ROW, LEFT, PLOT, TOP = 34, 250, 440, 56  # pixels of the picture
STYLE = """
  .paper { fill: #ffffff } text { fill: #1f2430; font: 13px system-ui, sans-serif }
  .zero { stroke: #6b7280; stroke-dasharray: 4 3 } .seed { fill: none; stroke: #b91c1c }
  .range { stroke: #b91c1c; stroke-width: 2.2 } .mean { fill: #b91c1c }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #14171f } text { fill: #e6e9ef } .zero { stroke: #97a1b3 }
    .seed, .range { stroke: #ff8f8f } .mean { fill: #ff8f8f }
  }"""


def write_study(
    folder: Path,
    base: Mapping[str, Any],
    axes: Sequence[Axis],
    rows: Sequence[dict[str, Any]],
    timings: Sequence[dict[str, Any]],
    found: Sequence[Effect],
) -> None:
    """Every file of the study, each written whole or not at all."""
    shown = {"settings": base, "axes": [asdict(a) for a in axes]}
    shown |= {"cells": rows, "effects": [asdict(effect) for effect in found]}
    write_atomically(folder / "results.csv", table(rows))
    write_atomically(folder / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_atomically(folder / "results.json", json.dumps(shown, indent=1) + "\n")
    write_atomically(folder / "report.md", markdown(axes, rows, found))
    write_atomically(folder / "effects.svg", picture(found))
    write_atomically(folder / "timing.csv", table(timings))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; floats in full, so that reading them back gives the same bits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _number(value: float | None, signs: str = ".4f") -> str:
    return "" if value is None else format(value, signs)


def _plus_minus(mean: float, half: float | None, signs: str = ".4f") -> str:
    return _number(mean, signs) + (f" ± {half:.4f}" if half is not None else "")


def markdown(axes: Sequence[Axis], rows: Sequence[dict[str, Any]], found: Sequence[Effect]) -> str:
    """Effects first, then every combination with its mean over seeds."""
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        "# Ablation",
        "",
        f"{len(rows)} runs, seeds {seeds[0]} to {seeds[-1]}. Differences are in held-out nats per"
        " character (training loss where nothing is held out); below 0 is better. Intervals are"
        " 95%, over seeds; the last column holds for all rows at once (Bonferroni).",
        "",
        "| setting | from | to | difference | for all at once | clear |",
        "|---|---|---|---|---|---|",
    ]
    for e in found:
        both = e.interval95_all
        clear = "" if both is None else ("yes" if abs(e.mean) > both else "no")
        difference = _plus_minus(e.mean, e.interval95, "+.4f")
        lines.append(
            f"| {e.axis} | {e.base} | {e.value} | {difference} |"
            f" {'' if both is None else f'± {both:.4f}'} | {clear} |"
        )
    names = [axis.name for axis in axes]
    lines += ["", "| " + " | ".join([*names, "parameters", *METRICS, "diverged"]) + " |"]
    lines.append("|---" * (len(names) + len(METRICS) + 2) + "|")
    combinations = dict.fromkeys(tuple(row[name] for name in names) for row in rows)
    for values in combinations:
        alike = [row for row in rows if tuple(row[name] for name in names) == values]
        shown = [str(value) for value in values] + [f"{alike[0]['parameters']:,}"]
        for metric in METRICS:
            numbers = [row[metric] for row in alike if row[metric] is not None]
            shown.append(_plus_minus(*interval(numbers, 0.95)) if numbers else "")
        shown.append(str(sum(row["diverged"] for row in alike)))
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def picture(found: Sequence[Effect]) -> str:
    """Each effect as a row: a ring for every seed, a dot for the mean, a line for its interval."""
    ends = [abs(d) for e in found for d in e.by_seed]
    ends += [abs(e.mean) + (e.interval95 or 0.0) for e in found]
    most = max(ends, default=0.0) or 1.0

    def x(difference: float) -> float:
        return round(LEFT + PLOT / 2 + difference / most * (PLOT / 2 - 12), 2)

    width, height = LEFT + PLOT + 20, TOP + ROW * len(found) + 44
    bottom = height - 36
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>Effects of the settings</title>",
        f"<desc>{escape(_in_words(found))}</desc><style>{STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
        '<text x="16" y="26">Difference in nats per character, 95% interval over seeds</text>',
        f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="{TOP - 14}" y2="{bottom}"/>',
    ]
    for i, e in enumerate(found):
        y = TOP + ROW * i + 8
        label = escape(f"{e.axis}: {e.base} → {e.value}")
        parts.append(f'<text x="16" y="{y + 4}">{label}</text>')
        if e.interval95 is not None:
            low, high = x(e.mean - e.interval95), x(e.mean + e.interval95)
            parts.append(f'<line class="range" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>')
        parts += [f'<circle class="seed" cx="{x(d)}" cy="{y}" r="4"/>' for d in e.by_seed]
        parts.append(f'<circle class="mean" cx="{x(e.mean)}" cy="{y}" r="4"/>')
    for at, text in ((-most, f"{-most:.3f}"), (0.0, "0"), (most, f"+{most:.3f}")):
        parts.append(f'<text x="{x(at)}" y="{height - 14}" text-anchor="middle">{text}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _in_words(found: Sequence[Effect]) -> str:
    return "; ".join(
        f"{e.axis} from {e.base} to {e.value}: {_plus_minus(e.mean, e.interval95, '+.4f')}"
        for e in found
    )
