"""axe looks at the chat page in each of its states, in both colours, on a desktop and on a phone.

Nothing at all may be found, also nothing that axe calls minor.
Read: KEPT (a chat with all that an answer can show) -> Look -> states -> the test.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Page, Route, expect
from scripted_chat import ABOUT, MARKDOWN, scripted_engine
from served_chat import Served, serving

from tests.browser.chat_steps import answered, ask, last_answer

pytestmark = pytest.mark.browser
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
SIZES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 375, "height": 812}, "is_mobile": True, "has_touch": True},
}
# Dark differs from light in colours only, so there axe looks at these alone.
SCHEMES: dict[Literal["light", "dark"], list[str] | None] = {
    "light": None,
    "dark": ["color-contrast", "link-in-text-block"],
}
# Colours that are still changing are no finding, so what moves ends first; a pulse never does.
FINDINGS = """async (runOnly) => {
  const ends = (one) => one.effect.getTiming().iterations !== Infinity;
  await Promise.allSettled(document.getAnimations().filter(ends).map((one) => one.finished));
  return (await axe.run({ resultTypes: ["violations"], ...(runOnly && { runOnly }) })).violations;
}"""
TABLE = "\n\n#### Deep heading\n\n| thing | count |\n|:--|--:|\n| [lamp](https://x.org) | 2 |\n"
LONG = "A lamp gives light. " * 150
KEPT = {
    "id": "kept",
    "title": "Kept",
    "created": 1,
    "updated": 1,
    "messages": [
        {"id": "q", "role": "user", "text": "Show all"},
        {
            "id": "a",
            "role": "assistant",
            "state": "done",
            "stats": None,
            "parts": [
                {"type": "python", "text": "48*7"},
                {"type": "python_output", "text": "336"},
                {"type": "text", "text": f"So 336 [1], not 1/0 [2].\n\n{MARKDOWN}{TABLE}"},
                {"type": "python", "text": "1/0"},
            ],
            "sources": [
                {"id": 1, "title": "Sums", "url": "https://example.com/sums", "text": LONG},
                {"id": 2, "title": "Only a title", "url": "", "text": ""},
            ],
        },
    ],
}


class Look:
    """Runs axe on the page as it is now and remembers what it found, and where."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.found: list[tuple[str, str, str, list[str]]] = []
        self.states: list[str] = []

    def at(self, state: str) -> None:
        for scheme, rules in SCHEMES.items():
            self.page.emulate_media(color_scheme=scheme)
            for finding in self.page.evaluate(FINDINGS, rules):
                nodes = [node["html"][:200] for node in finding["nodes"]]
                where = f"{state}, {scheme}"
                self.found.append((where, finding["id"], finding["impact"], nodes))
        self.states.append(state)


def with_key(route: Route) -> None:
    """The server's /stats, saying that it asks for keys: the settings then have one field more."""
    route.fulfill(json={**route.fetch().json(), "needs_key": True})


@pytest.fixture(scope="module")
def forgetful() -> Iterator[Served]:
    """A server whose model soon no longer holds the whole chat."""
    with serving(scripted_engine(context=160)) as running:
        yield running


def look_at_talk(look: Look, served: Served) -> None:
    page = look.page
    look.at("welcome")
    served.model.go.clear()
    try:
        page.fill("#prompt", "Two sums")
        page.click("#send")
        expect(page.locator(".message.waiting")).to_be_visible()
        look.at("waiting for the first word")
    finally:
        served.model.go.set()
    answered(page)
    ask(page, "Break")
    expect(page.get_by_role("alert")).to_be_visible()
    look.at("an error")
    page.locator(".message.user").first.hover()
    page.get_by_label("Edit and ask again").first.click()
    look.at("editing")
    page.fill(".editor textarea", "Hello")
    page.keyboard.press("Enter")
    answered(page)
    expect(page.locator(".branches")).to_have_text("2/2")
    look.at("branches")
    for _ in range(4):
        ask(page, "Who are you?")
    expect(page.locator(".memory-line")).to_be_visible()
    look.at("the model's memory begins later")


def look_around(look: Look) -> None:
    page = look.page
    page.click("#open-settings")
    expect(page.get_by_label("API key")).to_be_visible()
    look.at("settings")
    page.click("text=Reset to defaults")  # a toast above the drawer
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    page.keyboard.type("zzz")
    expect(page.locator(".nothing")).to_be_visible()
    look.at("a search without a hit")
    page.keyboard.press("Escape")
    page.locator(".chat-row .icon-button").first.click()
    look.at("the menu of a chat")
    page.get_by_role("menuitem", name="Rename").click()
    look.at("renaming")
    page.keyboard.press("Escape")
    page.click("#help")
    expect(page.locator("#help-dialog")).to_be_visible()
    look.at("keys and help")
    page.keyboard.press("Escape")


def look_at_kept(look: Look) -> None:
    page = look.page
    page.locator(".chat-row .open", has_text="Kept").click()
    expect(last_answer(page).locator("table")).to_be_visible()
    look.at("calls, code, a table and sources")
    last_answer(page).locator(".cite").first.click()
    expect(last_answer(page).locator(".passage")).to_be_visible()
    look.at("a source opened from its citation")


@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing_in_any_state(open_page, forgetful, size):
    page = open_page(forgetful, **SIZES[size])
    page.route("**/stats", with_key)
    page.evaluate("chat => localStorage.setItem('nanochat:chat:kept', chat)", json.dumps(KEPT))
    page.reload()
    expect(page.locator("#model-chip")).to_have_text(ABOUT.name)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    look = Look(page)
    look_at_talk(look, forgetful)
    look_around(look)
    look_at_kept(look)
    assert look.found == []
    assert len(look.states) == 13
