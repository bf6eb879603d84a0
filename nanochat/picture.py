"""Two charts as SVG text, with nothing but the standard library.

    bar_chart_svg("Bytes per token", {"news": {"ours": 4.1, "bytes": 1.0}}, y_label="bytes/token")
    line_chart_svg("Loss", {"train": [(0, 8.3), (10, 5.1)]}, x_label="step", y_label="loss")

Colours follow the reader's light or dark setting; series differ by dash or position too, never by
colour alone; every chart carries a title and a description for screen readers.
Called by tok_eval and report. Read: nice_ticks -> frame -> bar_chart_svg -> line_chart_svg.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 76, 62  # margins around the plotting area, in pixels
DASHES = ("", "7 4", "2 3", "10 3 2 3", "1 5", "14 4")
STYLE = """
  .paper { fill: #ffffff } text { fill: #1f2430; font: 13px system-ui, sans-serif }
  .heading { font-size: 17px; font-weight: 600 }
  .small { font-size: 11px } .tiny { font-size: 8.5px }
  .grid { stroke: #d8dce4 } .axis { stroke: #6b7280 }
  .line { fill: none; stroke-width: 2.2 }
  .c0 { --c: #2563eb } .c1 { --c: #15803d } .c2 { --c: #c2410c }
  .c3 { --c: #b91c1c } .c4 { --c: #7e22ce } .c5 { --c: #475569 }
  .bar, .dot { fill: var(--c) } .line { stroke: var(--c) }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #14171f } text { fill: #e6e9ef } .grid { stroke: #333a48 }
    .axis { stroke: #97a1b3 }
    .c0 { --c: #7aa7ff } .c1 { --c: #5ccb85 } .c2 { --c: #f59e5b }
    .c3 { --c: #f87171 } .c4 { --c: #c79bff } .c5 { --c: #a5b1c4 }
  }
"""


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that span [low, high].

    >>> nice_ticks(0, 4.3)
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = min((power * m for m in (1, 2, 5, 10)), key=lambda s: abs(span / s - count))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(number * step, 12) for number in range(first, last + 1)]


def short(value: float) -> str:
    """A number for a label.

    >>> [short(x) for x in (0, 0.25, 3.14159, 12000, 3000000.0, 0.00012)]
    ['0', '0.25', '3.14', '12k', '3M', '1.2e-04']
    """
    size = abs(value)
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            divisor = 1e3 if letter == "k" else limit
            return f"{value / divisor:.3g}{letter}"
    if size and size < 1e-3:
        return f"{value:.1e}"
    return f"{round(value, 2):g}" if size < 100 else f"{value:.0f}"


def frame(title: str, x_label: str, y_label: str, body: Sequence[str]) -> str:
    """The page around the plotting area: title, the names of the axes, the line they stand on."""
    middle = (TOP + HEIGHT - BOTTOM) // 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="heading" x="{LEFT}" y="28">{escape(title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) // 2}" y="{HEIGHT - 10}" text-anchor="middle">'
        f"{escape(x_label)}</text>",
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">'
        f"{escape(y_label)}</text>",
    ]
    axis = f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    return "\n".join([*parts, *body, axis, "</svg>"]) + "\n"


def legend(names: Sequence[str], shape: str) -> str:
    """One row of names, each behind the mark its series has: `shape` is "bar" or "line"."""
    x, parts = LEFT, []
    for number, name in enumerate(names):
        if shape == "bar":
            parts.append(
                f'<rect class="bar c{number % 6}" x="{x + 8}" y="43" width="14" height="14"/>'
            )
        else:
            parts.append(
                f'<path class="line c{number % 6}" stroke-dasharray="{dash(number)}" '
                f'd="M{x} 50h24"/>'
                f'<circle class="dot c{number % 6}" cx="{x + 12}" cy="50" r="3"/>'
            )
        parts.append(f'<text x="{x + 30}" y="54">{escape(name)}</text>')
        x += 46 + 7 * len(name)
    return "".join(parts)


def dash(number: int) -> str:
    return DASHES[number % len(DASHES)]


def y_axis(ticks: Sequence[float]) -> tuple[str, float, float]:
    """(grid lines with their numbers, lowest, highest value shown)."""
    low, high = ticks[0], ticks[-1]
    parts = []
    for tick in ticks:
        y = y_of(tick, low, high)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text class="small" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{short(tick)}</text>"
        )
    return "\n".join(parts), low, high


def y_of(value: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP)


def bar_chart_svg(
    title: str,
    groups: Mapping[str, Mapping[str, float]],
    x_label: str = "",
    y_label: str = "",
) -> str:
    """Grouped bars. `groups`: group -> series -> value (finite, 0 or more); the value is written
    on each bar. A series missing from a group leaves a gap."""
    series = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    values = [value for bars in groups.values() for value in bars.values()]
    assert all(math.isfinite(v) and v >= 0 for v in values), f"bars need values >= 0: {values}"
    grid, low, high = y_axis(nice_ticks(0, max(values, default=1.0) or 1.0))
    slot = (WIDTH - LEFT - RIGHT) / max(len(groups), 1)
    width = 0.8 * slot / max(len(series), 1)
    size = "small" if width > 26 else "tiny"
    parts = [grid]
    for place, (group, bars) in enumerate(groups.items()):
        left = LEFT + slot * (place + 0.1)
        for number, name in enumerate(series):
            if name not in bars:
                continue
            x, y = left + number * width, y_of(bars[name], low, high)
            parts.append(
                f'<rect class="bar c{number % 6}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{width * 0.92:.1f}" height="{HEIGHT - BOTTOM - y:.1f}">'
                f"<title>{escape(group)}, {escape(name)}: {bars[name]:g}</title></rect>"
                f'<text class="{size}" x="{x + width * 0.46:.1f}" y="{y - 4:.1f}" '
                f'text-anchor="middle">{short(bars[name])}</text>'
            )
        parts.append(
            f'<text class="small" x="{left + 0.4 * slot:.1f}" y="{HEIGHT - BOTTOM + 18}" '
            f'text-anchor="middle">{escape(group)}</text>'
        )
    if len(series) > 1:
        parts.append(legend(series, "bar"))
    return frame(title, x_label, y_label, parts)


def line_chart_svg(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str = "",
    y_label: str = "",
) -> str:
    """One line a series, from points (x, y) in order; a point that is not finite breaks it."""
    points = [p for line in series.values() for p in line if all(map(math.isfinite, p))]
    points = points or [(0.0, 0.0)]
    ys = [y for _, y in points]
    grid, low, high = y_axis(nice_ticks(min(ys), max(ys)))
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    span = (last - first) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - first) / span * (WIDTH - LEFT - RIGHT), y_of(y, low, high)

    parts = [grid]
    for tick in (t for t in nice_ticks(first, last, 6) if first <= t <= last):
        x, _ = place(tick, low)
        parts.append(
            f'<text class="small" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{short(tick)}</text>"
        )
    for number, line in enumerate(series.values()):
        steps, pen = [], "M"
        for point in line:
            if not all(map(math.isfinite, point)):
                pen = "M"
                continue
            x, y = place(*point)
            steps.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
            if len(line) <= 60:
                parts.append(f'<circle class="dot c{number % 6}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
        parts.append(
            f'<path class="line c{number % 6}" stroke-dasharray="{dash(number)}" '
            f'd="{"".join(steps)}"/>'
        )
    return frame(title, x_label, y_label, [*parts, legend(list(series), "line")])
