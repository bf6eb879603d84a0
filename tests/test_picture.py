"""Charts: well-formed, complete, and their geometry equals the numbers."""

import xml.etree.ElementTree as ElementTree

import pytest

from nanochat.picture import bar_chart_svg, line_chart_svg, nice_ticks

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_as_high_as_their_values():
    svg = bar_chart_svg("T", {"a": {"s": 2.0, "t": 4.0}, "b": {"s": 1.0}}, "kind", "size")
    bars = [r for r in ElementTree.fromstring(svg).iter(f"{SVG}rect") if len(r)]
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert len(bars) == 3
    assert heights[0] == pytest.approx(heights[1] / 2, abs=0.2)
    assert heights[2] == pytest.approx(heights[1] / 4, abs=0.2)


def test_names_are_escaped_and_axes_are_labelled():
    svg = bar_chart_svg("a < b & c", {"<x>": {"s&t": 1.0}}, "kind & sort", "y<z")
    texts = [t.text for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert {"a < b & c", "<x>", "kind & sort", "y<z"} <= set(texts)


def test_a_line_breaks_where_a_value_is_not_finite():
    svg = line_chart_svg("T", {"s": [(0, 1), (1, float("nan")), (2, 3), (3, 4)]}, "x", "y")
    paths = [p.attrib["d"] for p in ElementTree.fromstring(svg).iter(f"{SVG}path")]
    line = next(d for d in paths if d.count("M") == 2)
    assert line.count("L") == 1


@pytest.mark.parametrize("points", [[], [(0.0, 5.0)], [(1.0, 2.0), (1.0, 2.0)]])
def test_charts_of_almost_nothing_are_still_charts(points):
    ElementTree.fromstring(line_chart_svg("T", {"s": points}, "x", "y"))
    ElementTree.fromstring(bar_chart_svg("T", {}, "x", "y"))


def test_ticks_span_the_range_and_stay_few():
    for low, high in [(0, 1), (0.3, 0.31), (-5, 7), (0, 1e9), (3, 3), (1e-6, 3e-6)]:
        ticks = nice_ticks(low, high)
        assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12 and 2 <= len(ticks) <= 9


def test_both_colour_schemes_are_in_every_chart():
    for svg in (bar_chart_svg("T", {"a": {"s": 1}}), line_chart_svg("T", {"s": [(0, 1)]})):
        assert "prefers-color-scheme: dark" in svg and 'role="img"' in svg
