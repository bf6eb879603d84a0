"""The report card for people: the same facts as text, Markdown and one self-contained page.

Called by scripts/report.py and scripts/build.py. Read: headline -> the rows -> text_card ->
markdown_card -> pictures -> html_card -> publish_card. Every figure comes from a record; what
nobody measured is left out.
"""

import os
import platform
from collections.abc import Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path

from nanochat.atomic import write_atomically
from nanochat.paths import report_dir
from nanochat.picture import bar_chart_svg, line_chart_svg
from nanochat.report import Record, Report, read_report, summary
from nanochat.stages import duration

Row = tuple[str, ...]
KINDS_A_CHART = 8  # more names than that don't fit under the bars

WORDS = {
    "bits per byte": "How many bits the model needs, on average, to write down the next byte of a "
    "text it has never seen. 8 means it knows nothing; lower is better.",
    "majority": "The score of a program that ignores the question and always gives the most common "
    "answer of that kind. A model has learned something only where it beats this.",
    "parameters": "The numbers inside the model that training adjusts.",
    "token": "A piece of text, about a short word long: what the model reads and writes.",
}


def headline(report: Report) -> str:
    """The whole report in a sentence or two."""
    sentences = []
    if report.base:
        total = sum(report.stages_s.values())
        made = f", made on this machine in {duration(total)}" if total else ""
        sentences.append(f"A model of {count(report.base.get('parameters'))} parameters{made}.")
    if report.exam:
        questions = report.exam.get("questions")
        those = f"{questions} questions" if questions else "the questions"
        right = f"{report.exam['overall']:.0%}"
        sentences.append(f"It answers {right} of {those} that it had never seen.")
    return " ".join(sentences) or "Nothing is measured yet."


def count(number: object) -> str:
    """7340032 -> '7.3 million'."""
    if not isinstance(number, int | float):
        return "unknown size"
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number:,.0f}"


def machine() -> str:
    """What the figures were measured on."""
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, torch {version('torch')}"
    )


def exam_rows(exam: Record) -> list[Row]:
    """kind, questions, right answers, majority baseline."""
    return [
        (name, str(kind.get("n", "")), share(kind["accuracy"]), share(kind.get("majority")))
        for name, kind in by_accuracy(exam)
    ]


def by_accuracy(exam: Record) -> list[tuple[str, Record]]:
    """The kinds of question with their figures, the weakest first: that is where to look."""
    named = [(name.replace("_", " "), kind) for name, kind in exam["kinds"].items()]
    return sorted(named, key=lambda item: item[1]["accuracy"])


def share(value: object) -> str:
    return f"{value:.1%}" if isinstance(value, int | float) else ""


def stage_rows(report: Report) -> list[Row]:
    rows = [(name, duration(seconds)) for name, seconds in report.stages_s.items()]
    return [*rows, ("together", duration(sum(report.stages_s.values())))] if rows else []


def training_rows(report: Report) -> list[Row]:
    """stage, tokens read, tokens a second, bits per byte on unseen text."""
    rows: list[Row] = []
    for name, found in (("pretraining", report.base), ("fine-tuning", report.sft)):
        if found:
            speed = found.get("tokens_per_s")
            bpb = found.get("val_bpb")
            rows.append(
                (
                    name,
                    count(found.get("tokens")),
                    f"{speed:,.0f}" if isinstance(speed, int | float) else "",
                    f"{bpb:.3f}" if isinstance(bpb, int | float) else "",
                )
            )
    return rows


def reinforcement_rows(report: Report) -> list[Row]:
    """kind, held-out accuracy before and after, the weakest first; * marks what was practised."""
    found = report.rl or {"before": {}, "after": {}}
    before, after, practised = found["before"], found["after"], found.get("practised", [])
    return [
        (
            f"{kind.replace('_', ' ')}{' *' if kind in practised else ''}",
            share(before[kind]),
            share(after[kind]),
        )
        for kind in sorted(before, key=lambda kind: before[kind])
    ]


def sections(report: Report) -> list[tuple[str, Row, list[Row]]]:
    """(title, column heads, rows) of every table that has rows."""
    tables = [
        (
            "Exam",
            ("kind of question", "asked", "right", "majority"),
            exam_rows(report.exam) if report.exam else [],
        ),
        ("Reinforcement", ("kind of question", "before", "after"), reinforcement_rows(report)),
        ("Training", ("stage", "tokens", "per second", "bits per byte"), training_rows(report)),
        ("Time", ("stage", "took"), stage_rows(report)),
    ]
    return [table for table in tables if table[2]]


def text_table(heads: Row, rows: Sequence[Row]) -> str:
    """Columns as wide as their widest cell; the first is text, the others are figures."""
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = []
    for row in [heads, tuple("-" * width for width in widths), *rows]:
        first, *others = (cell for cell in row)
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def text_card(report: Report) -> str:
    """The card for a terminal."""
    parts = [headline(report)]
    parts += [f"{title}\n{text_table(heads, rows)}" for title, heads, rows in sections(report)]
    return "\n\n".join([*parts, f"Measured on {machine()}."])


def markdown_card(report: Report) -> str:
    """The card as Markdown, for a pull request or a note."""
    parts = ["# Report card", headline(report)]
    for title, heads, rows in sections(report):
        rule = tuple("---" if column == 0 else "---:" for column in range(len(heads)))
        table = "\n".join("| " + " | ".join(row) + " |" for row in [heads, rule, *rows])
        parts.append(f"## {title}\n\n{table}")
    parts.append(f"Measured on {machine()}.")
    parts += [f"**{word}**: {meaning}" for word, meaning in WORDS.items()]
    return "\n\n".join(parts) + "\n"


def learning_curve(report: Report) -> str:
    """Bits per byte on unseen text against tokens read, as SVG; empty when nothing was measured."""
    lines: dict[str, list[tuple[float, float]]] = {}
    read = 0.0  # tokens before this stage: the second stage goes on where the first ended
    for name, found in (("pretraining", report.base), ("fine-tuning", report.sft)):
        points = [
            (read + float(tokens), float(val_bpb))
            for _step, _train_loss, val_bpb, tokens in (found or {}).get("curve", [])
            if val_bpb is not None
        ]
        if points:
            lines[name] = points
            read = points[-1][0]
    if not lines:
        return ""
    return line_chart_svg("How it learned", lines, "tokens read", "bits per byte, unseen text")


def exam_charts(exam: Record) -> list[str]:
    """Right answers beside the majority baseline, in percent, the weakest kinds first, as SVGs."""
    kinds = by_accuracy(exam)
    charts = max(1, -(-len(kinds) // KINDS_A_CHART))
    size = -(-len(kinds) // charts)  # about as many kinds in each: 14 are 7 and 7, not 8 and 6
    drawn = []
    for start in range(0, len(kinds), size):
        bars: dict[str, dict[str, float]] = {}
        for name, kind in kinds[start : start + size]:
            bars[name] = {"this model": round(100 * kind["accuracy"], 1)}
            if isinstance(kind.get("majority"), int | float):
                bars[name]["majority"] = round(100 * kind["majority"], 1)
        part = f", {start // size + 1} of {charts}" if charts > 1 else ""
        title = f"What it can answer{part}"
        drawn.append(bar_chart_svg(title, bars, "kind of question", "percent right"))
    return drawn


def pictures(report: Report) -> dict[str, str]:
    """File name -> SVG, for every picture that has something to show."""
    curve = learning_curve(report)
    drawn = {"learning.svg": curve} if curve else {}
    for number, svg in enumerate(exam_charts(report.exam) if report.exam else [], 1):
        drawn[f"exam-{number}.svg"] = svg
    return drawn


PAGE_STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --page: #f4f5f8; --sheet: #fff; --rule: #d8dce4 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --page: #0d1016; --sheet: #14171f; --rule: #333a48 }
}
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif }
main { max-width: 48rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem; margin: .5rem 0 } h2 { font-size: 1.1rem; margin: 0 0 .5rem }
.lead { font-size: 1.15rem }
section { background: var(--sheet); border: 1px solid var(--rule); border-radius: 12px;
  padding: 1rem; margin: 1rem 0; overflow-x: auto }
section svg { display: block; width: 100%; min-width: 32rem; height: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .35rem .5rem; border-top: 1px solid var(--rule) }
thead th { border-top: 0 } th:first-child { text-align: left }
@media (max-width: 30rem) {
  section { padding: .75rem .5rem } th, td { padding: .3rem .25rem; font-size: .85rem }
}
dt { font-weight: 600 } dd { margin: 0 0 .5rem }
"""


def html_table(heads: Row, rows: Sequence[Row]) -> str:
    """A table whose first column heads its row."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def html_card(report: Report) -> str:
    """The card as one page: no script, no other file, no network."""
    parts = [  # on a phone a picture scrolls sideways, by keyboard too
        f'<section tabindex="0" aria-label="{name.removesuffix(".svg")} picture">{svg}</section>'
        for name, svg in pictures(report).items()
    ]
    parts += [
        f"<section><h2>{escape(title)}</h2>{html_table(heads, rows)}</section>"
        for title, heads, rows in sections(report)
    ]
    words = "".join(f"<dt>{escape(w)}</dt><dd>{escape(m)}</dd>" for w, m in WORDS.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nanochat: report card</title>
<style>{PAGE_STYLE}</style>
</head>
<body>
<main>
<h1>Report card</h1>
<p class="lead">{escape(headline(report))}</p>
{"".join(parts)}
<section><h2>Words</h2><dl>{words}</dl></section>
<p>Measured on {escape(machine())}.</p>
</main>
</body>
</html>
"""


def publish_card() -> tuple[Report, Path]:
    """Write card.md, card.html and the pictures; returns what they show and the page's path.

    Fails with one sentence, before anything is written, when a figure is missing.
    """
    report = read_report()
    summary(report)
    page = report_dir() / "card.html"
    write_atomically(report_dir() / "card.md", markdown_card(report))
    write_atomically(page, html_card(report))
    for name, svg in pictures(report).items():
        write_atomically(report_dir() / name, svg)
    return report, page
