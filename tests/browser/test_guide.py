"""The guide as its visitors have it: every control of every section, in real browsers.

docs/guide/test/play.js lists the controls. tests/test_guide.py checks the page without a browser.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.firefox import Firefox

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parent.parent.parent
ADDRESS = (ROOT / "educational_guide.html").as_uri()
PLAY = ROOT / "docs" / "guide" / "test" / "play.js"
AXE = ROOT / "tests" / "browser" / "node_modules" / "axe-core" / "axe.min.js"
PYTHON_RUN = json.loads((ROOT / "docs" / "guide" / "data" / "python_run.json").read_text())
SECTIONS = ["tokens", "autograd", "parameters", "architecture", "attention", "training"]
SECTIONS += ["inference"]
READY = "document.documentElement.dataset.ready"
SIZES = {"desktop": (1440, 900), "tablet": (820, 1180), "phone": (375, 812)}


class Visit:
    """One open guide and everything that went wrong in it."""

    def __init__(self, page: "Page") -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", self.note_request)
        page.set_default_timeout(240_000)

    def note_request(self, request: Any) -> None:
        if request.url.startswith(("http", "ws")):
            self.problems.append(f"network: {request.url}")

    def open(self, fragment: str = "") -> "Page":
        self.page.goto("about:blank")
        self.page.goto(ADDRESS + fragment)
        self.page.wait_for_function(READY)
        return self.page


@pytest.fixture
def visit(chromium: "Browser") -> Iterator[Visit]:
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    visitor = Visit(context.new_page())
    yield visitor
    context.close()
    assert not visitor.problems


@pytest.mark.parametrize("size", SIZES)
def test_every_control_works_at_every_width(visit: Visit, size: str) -> None:
    width, height = SIZES[size]
    visit.page.set_viewport_size({"width": width, "height": height})
    page = visit.open()
    page.add_script_tag(path=PLAY)
    for section in SECTIONS:
        assert len(page.evaluate("s => guidePlay.play(s)", section)) >= 5
        assert page.evaluate("guidePlay.nonsense()") == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width, section


def test_the_nudge_table_fits_a_phone_with_its_largest_numbers_too(visit: Visit) -> None:
    visit.page.set_viewport_size({"width": 375, "height": 812})
    page = visit.open()
    page.click("#autograd [data-value=own]")
    for expression in ("a*b+c", "a**4*b*b*c*9-c**4/0.001"):
        page.fill("#own-expression", expression)
        row = page.locator("#nudge tbody tr").first
        row.wait_for()
        wide = page.locator("#nudge .table-scroll").evaluate("e => [e.scrollWidth, e.clientWidth]")
        assert wide[0] <= wide[1]
    assert len(page.locator("#nudge tbody td").first.inner_text()) >= 8  # a large number was shown


def test_the_badge_says_equal_because_it_compared(visit: Visit) -> None:
    page = visit.open()
    page.click("#verify")
    page.wait_for_selector("#badge[data-verdict]")
    report = json.loads(page.get_attribute("#badge", "data-report") or "")
    assert report["equal"] and report["steps"] == 1000 and report["valueSteps"] == 100
    assert max(report["maxLossGap"], report["maxValueGap"]) <= 1e-9
    assert report["samples"] == PYTHON_RUN["samples"]


def test_the_badge_says_different_when_python_printed_something_else(visit: Visit) -> None:
    page = visit.open()
    page.evaluate("Python.run.losses[7] += 1e-8")
    page.click("#verify")
    page.wait_for_selector('#badge[data-verdict="different"]')


def test_training_to_the_end_gives_pythons_weights_and_stops_there(visit: Visit) -> None:
    page = visit.open("#training")
    page.click('[data-train="1000"]')
    page.wait_for_function("training.done === 1000")
    gap = "Math.max(...models.mine.map((w, i) => Math.abs(w - models.trained[i])))"
    assert page.evaluate(gap) <= 1e-9
    page.wait_for_selector('[data-train="1"]:disabled')
    assert "learning rate has reached 0" in page.inner_text("#train-status")
    page.evaluate("train(100)")
    assert page.evaluate("training.done") == 1000


def test_new_weights_reach_every_section(visit: Visit) -> None:
    page = visit.open("#attention")
    before = page.evaluate("[...traceNow().probs]")
    page.evaluate("document.getElementById('training').scrollIntoView()")
    page.click('[data-train="10"]')
    page.wait_for_function("training.done === 10")
    assert page.evaluate("[...traceNow().probs]") != before
    assert "by you for 10 steps" in page.inner_text("#weights-note")
    page.evaluate("document.getElementById('inference').scrollIntoView()")
    page.wait_for_function("document.getElementById('draw-seed').innerText.includes('10 steps')")


def test_a_link_brings_back_what_was_seen(visit: Visit) -> None:
    page = visit.open("#attention?word=marvin&pos=4&head=2&key=1&sharp=2.5&off=3")
    assert page.input_value("#attention .word-field input") == "marvin"
    assert page.input_value("#sharp") == "2.5"
    assert not page.is_checked("#head-switches label:nth-child(4) input")
    shown = page.inner_text("#dot")
    page.wait_for_function("location.hash.includes('marvin')")
    again = page.evaluate("location.hash")
    assert visit.open(again).inner_text("#dot") == shown


def test_a_link_to_a_half_trained_model_trains_it_again(visit: Visit) -> None:
    page = visit.open("#training?model=mine&steps=37")
    page.wait_for_function("training.done === 37")
    losses = page.evaluate("training.losses")
    assert losses == pytest.approx(PYTHON_RUN["losses"][:37], abs=1e-9)


@pytest.mark.parametrize("fragment", ["#x?pos=-7&temp=NaN&a=1e99&graph=constructor", "#?steps=-1"])
def test_a_broken_link_shows_the_usual_page(visit: Visit, fragment: str) -> None:
    page = visit.open(fragment)
    page.add_script_tag(path=PLAY)
    assert page.evaluate("guidePlay.nonsense()") == []
    assert 0.1 <= page.evaluate("state.values.temp") <= 2


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("zoë", "“ë” is not one of the 27 tokens"),
        ("a1", "“1” is not one of the 27 tokens"),
        ("wolfeschlegelstein", "Take away 3"),
        ("", "Nothing typed"),
    ],
)
def test_a_word_that_cant_be_read_is_explained(visit: Visit, typed: str, said: str) -> None:
    page = visit.open("#tokens")
    page.fill("#tokens .word-field input", typed)
    page.wait_for_function(
        "t => document.getElementById('token-note').innerText.includes(t)", arg=said
    )


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("a / (b - b)", "Division by zero"),
        ("log(0 - a * a)", "log needs a positive number"),
        ("exp(exp(exp(9)))", "too large"),
        ("a +", "ends too early"),
        ("sin(a)", "“sin” is unknown"),
        ("a ** b", "plain number"),
        ("constructor(a)", "“constructor” is unknown"),
    ],
)
def test_an_expression_that_has_no_value_is_explained(
    visit: Visit, expression: str, said: str
) -> None:
    page = visit.open("#autograd?graph=own")
    page.fill("#own-expression", expression)
    page.wait_for_function(
        "t => document.getElementById('graph-problem').innerText.includes(t)", arg=said
    )


def test_the_keyboard_reaches_everything(visit: Visit) -> None:
    page = visit.open("#architecture")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("state.values.op === 1")
    page.keyboard.press("c")
    assert page.locator("#code-architecture li.lit").count() >= 1
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("6")
    page.wait_for_function("state.section === 'training'")
    page.keyboard.press("Enter")
    page.wait_for_function("training.done === 10")
    page.keyboard.press("t")
    assert page.get_attribute("html", "data-theme") in {"light", "dark"}


def test_a_term_is_explained_on_focus_and_dismissed_with_escape(visit: Visit) -> None:
    page = visit.open("#tokens")
    page.focus("#tokens .term")
    assert page.locator("#tip").is_visible()
    page.hover("#tip")
    assert page.locator("#tip").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()


def test_every_prediction_can_be_made_and_is_scored(visit: Visit) -> None:
    page = visit.open()
    for form in page.locator(".quiz form").all():
        radio = form.locator("input[type=radio]").first
        if radio.count():
            radio.check()
        form.locator("button").click()
        assert form.locator(".verdict").inner_text()[0] in "✓✗"
    assert "of 12 predictions right" in page.inner_text("#score")


def test_the_panel_shows_the_running_lines_of_microgpt(visit: Visit) -> None:
    page = visit.open("#architecture?op=9")
    page.click("#architecture .code-button")
    lit = page.locator("#code-architecture li.lit").all_inner_texts()
    assert any("share = softmax(scores)" in line for line in lit)
    whole = page.locator("#code-architecture .code-lines").evaluate("node => node.textContent")
    assert whole == (ROOT / "microgpt.py").read_text(encoding="utf-8") + "\n"


def test_an_old_browser_is_told_what_it_lacks(visit: Visit) -> None:
    visit.page.add_init_script("delete window.DecompressionStream; delete window.Worker;")
    page = visit.open()
    assert "DecompressionStream" in page.inner_text("#problem")
    assert page.locator("#op-output .cell, #heads .head-cell").count() > 10
    beside_the_list = page.locator("main").bounding_box()
    assert beside_the_list and beside_the_list["width"] > 1000


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_axe_finds_nothing_serious(visit: Visit, size: str, theme: str) -> None:
    width, height = SIZES[size]
    visit.page.set_viewport_size({"width": width, "height": height})
    visit.page.emulate_media(color_scheme="light" if theme == "light" else "dark")
    page = visit.open()
    page.add_script_tag(path=PLAY)
    page.add_script_tag(path=AXE)
    found = page.evaluate("guidePlay.findings()")
    assert not [f for f in found if f["impact"] in ("serious", "critical")]


def test_firefox_plays_every_section_and_equals_python() -> None:
    program = shutil.which("firefox-esr") or shutil.which("firefox")
    if not program:
        pytest.skip("no Firefox here: apt-get install firefox-esr")
    with Firefox(program) as firefox:
        firefox.open(ADDRESS)
        firefox.run(f"while (!{READY}) await new Promise((done) => setTimeout(done, 50));")
        firefox.run(f"(0, eval)({json.dumps(PLAY.read_text(encoding='utf-8'))});")
        for section in SECTIONS:
            played = firefox.run(f"return await window.guidePlay.play('{section}');")
            assert len(played) >= 5
        assert firefox.run("return window.guidePlay.nonsense();") == []
        report = firefox.run(
            "document.getElementById('verify').click();"
            "const badge = document.getElementById('badge');"
            "while (!badge.dataset.report) await new Promise((done) => setTimeout(done, 100));"
            "return JSON.parse(badge.dataset.report);"
        )
    assert report["equal"] and report["samples"] == PYTHON_RUN["samples"]
