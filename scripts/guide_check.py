"""Measure educational_guide.html in a real Chromium: size, speed, parity, accessibility.

Everything is read from the page as a visitor has it, through docs/guide/test/play.js. Timings are
told and not judged. Not covered: other browsers (tests/browser plays the page in Firefox).
Read: open_page -> measure_load, measure_parity, measure_play, measure_axe -> main.
"""

import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from nanochat.cli import parse, print_json, run
from nanochat.errors import UserError

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parent.parent
PLAY = ROOT / "docs" / "guide" / "test" / "play.js"
AXE = ROOT / "tests" / "browser" / "node_modules" / "axe-core" / "axe.min.js"
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
READY = "document.documentElement.dataset.ready"
TIMEOUT_MS = 180_000  # a shared machine may be busy; what counts is measured inside the page
LIMIT_MS = 50  # for an interaction, from the key's arrival to the picture on the screen
WIDTHS: Any = {n: {"width": w, "height": 850} for n, w in (("desktop", 1440), ("phone", 375))}


class GuideCheckFailed(UserError):
    """The check can't run here; the message says what to install."""


@dataclass(frozen=True)
class Settings:
    """What to check, with what."""

    page: Path = ROOT / "educational_guide.html"
    """The page."""
    chromium: str = "chromium"
    """Name or path of the browser."""
    json: bool = False
    """End with one line of JSON."""


@contextmanager
def open_page(
    settings: Settings, width: str = "desktop", theme: str = "dark"
) -> "Iterator[tuple[Page, list[str]]]":
    """The guide, ready to use, and a list that collects its errors and network requests."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as missing:
        raise GuideCheckFailed("playwright is missing: pip install -e '.[dev]'") from missing
    program = shutil.which(settings.chromium)
    if not program:
        raise GuideCheckFailed(f"no '{settings.chromium}' here: install it or give --chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport=WIDTHS[width])
        page.add_init_script(f"localStorage.setItem('microgpt-guide-theme', '{theme}')")
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("request", lambda r: problems.append(r.url) if r.url.startswith("http") else None)
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(settings.page.resolve().as_uri())
        page.wait_for_function(READY)
        yield page, problems
        browser.close()


def measure_load(settings: Settings) -> dict[str, Any]:
    """Milliseconds from navigation to the first paint, and until every section can be used."""
    paints, ready = [], []
    with open_page(settings) as (page, _):
        for _load in range(5):  # the median counts
            page.reload()
            page.wait_for_function(READY)
            ready.append(page.evaluate(f"Number({READY})"))
            paints.append(page.evaluate(PAINT))
    return {"first_paint_ms": median(paints), "usable_ms": median(ready)}


def measure_parity(settings: Settings) -> dict[str, Any]:
    """Press "verify", then train to the end as a visitor would."""
    with open_page(settings) as (page, _):
        page.click("#verify")
        page.wait_for_selector("#badge[data-verdict]")
        report = json.loads(page.get_attribute("#badge", "data-report") or "{}")
        page.add_script_tag(path=PLAY)
        seconds = page.evaluate("guidePlay.trainAll()")
    return {"parity": report, "train_1000_s": seconds, "steps_per_s": 1000 / seconds}


def measure_play(settings: Settings, width: str) -> dict[str, Any]:
    """Every control once: how long each took, what went wrong, does the page scroll sideways."""
    with open_page(settings, width) as (page, problems):
        page.add_script_tag(path=PLAY)
        times = []
        for section in page.evaluate("guidePlay.sections()"):
            for name in page.evaluate("section => guidePlay.lineUp(section)", section):
                page.keyboard.press("F9")  # a real key does it, so the browser times it
                ms = page.evaluate("guidePlay.took()")
                times.append({"ms": ms, "what": f"{section}: {name}", "where": width})
        problems += page.evaluate("guidePlay.nonsense()")
        return {"times": times, "problems": problems, **page.evaluate("guidePlay.measures()")}


def measure_axe(settings: Settings) -> list[dict[str, Any]]:
    """axe's findings with everything unfolded, at both widths in both themes."""
    if not AXE.exists():
        raise GuideCheckFailed("axe-core is missing: run `npm ci --prefix tests/browser`")
    findings: list[dict[str, Any]] = []
    for width, theme in itertools.product(WIDTHS, ("dark", "light")):
        with open_page(settings, width, theme) as (page, _):
            page.add_script_tag(path=AXE)
            page.add_script_tag(path=PLAY)
            found = page.evaluate("guidePlay.findings()")
            findings += [{**finding, "where": f"{width} {theme}"} for finding in found]
    return findings


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(Settings, argv, "nanochat guide-check", __doc__)
    if not settings.page.exists():
        raise GuideCheckFailed(f"no page at {settings.page}: run `nanochat guide-build`")
    record: dict[str, Any] = {"bytes": settings.page.stat().st_size}
    record |= measure_load(settings) | measure_parity(settings)
    record["play"] = {width: measure_play(settings, width) for width in WIDTHS}
    times = [time for play in record["play"].values() for time in play.pop("times")]
    over = sum(time["ms"] > LIMIT_MS for time in times)
    record |= {"interactions": len(times), "interactions_over_50_ms": over}
    record["slowest"] = sorted(times, key=lambda time: -time["ms"])[:8]
    record["axe"] = measure_axe(settings)
    serious = [f for f in record["axe"] if f["impact"] in ("serious", "critical")]
    problems = [p for play in record["play"].values() for p in play["problems"]]
    record["ok"] = bool(record["parity"]["equal"] and not serious and not problems)
    for key, value in record.items():
        print(f"{key:23} {value if key != 'parity' else {**value, 'samples': '…'}}")
    if settings.json:
        print_json(record)
    return 0 if record["ok"] else 1


if __name__ == "__main__":
    run(main)
