"""Print the report card of what was trained here, and write it as Markdown and as a page.

The records it reads are written by the stages themselves (nanochat/report.py); this script only
lays them out, so it is quick and can be repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.atomic import write_atomically
from nanochat.cli import parse, print_json, run
from nanochat.paths import report_dir
from nanochat.report import read_report, summary
from nanochat.report_card import html_card, markdown_card, pictures, text_card


@dataclass(frozen=True)
class ReportSettings:
    """What to print."""

    json: bool = False
    """Print the figures as one line of JSON instead of the card."""


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(ReportSettings, argv, "nanochat report", __doc__)
    report = read_report()
    figures = summary(report)  # before anything is written: what is missing is said first
    write_atomically(report_dir() / "card.md", markdown_card(report))
    write_atomically(report_dir() / "card.html", html_card(report))
    for name, svg in pictures(report).items():
        write_atomically(report_dir() / name, svg)
    if settings.json:
        print_json(figures)
    else:
        print(text_card(report))
        print(f"\nThe same card with pictures: {report_dir() / 'card.html'}")
    return 0


if __name__ == "__main__":
    run(main)
