"""Print the report card of what was trained here, and write it as Markdown and as a page.

The records it reads are written by the stages themselves (nanochat/report.py); this script only
lays them out, so it is quick and can be repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.cli import parse, print_json, run
from nanochat.report import summary
from nanochat.report_card import publish_card, text_card


@dataclass(frozen=True)
class ReportSettings:
    """What to print."""

    json: bool = False
    """Print the figures as one line of JSON instead of the card."""


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(ReportSettings, argv, "nanochat report", __doc__)
    report, page = publish_card()
    if settings.json:
        print_json(summary(report))
    else:
        print(f"{text_card(report)}\n\nThe same card with pictures: {page}")
    return 0


if __name__ == "__main__":
    run(main)
