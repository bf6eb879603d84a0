"""The chat page's settings, keys, colours and narrow screens in a real Chromium."""

import pytest
from playwright.sync_api import expect

from tests.browser.chat_steps import answered, ask, last_answer, requests_of

pytestmark = pytest.mark.browser
PHONE = {"viewport": {"width": 375, "height": 812}, "is_mobile": True, "has_touch": True}


# --- settings, keys, colours ---


def test_settings_reach_the_server_survive_a_reload_and_reset(open_page):
    page = open_page()
    bodies = requests_of(page)
    ask(page, "Hello")
    form = {"messages", "truncation", "stream", "stream_options"}  # the rest is the server's
    assert set(bodies[0]) == form
    page.keyboard.press("Control+,")
    page.locator("#set-temperature").evaluate(
        "e => { e.value = 1.25; e.dispatchEvent(new Event('input')) }"
    )
    page.fill("#set-seed", "11")
    page.fill("#set-system", "Be kind.")
    page.keyboard.press("Escape")
    page.reload()
    ask(page, "Hello")
    assert bodies[1]["temperature"] == 1.25 and bodies[1]["seed"] == 11
    assert bodies[1]["messages"][0] == {"role": "system", "content": "Be kind."}
    expect(last_answer(page).locator(".stats")).to_contain_text("seed 11")
    page.click("#open-settings")
    page.click("text=Reset to defaults")
    expect(page.locator("#set-seed")).to_have_value("")
    page.get_by_label("Close", exact=True).click()
    ask(page, "Hello")
    assert set(bodies[2]) == set(bodies[0])


def test_every_key_of_the_help_page_works(open_page):
    page = open_page()
    page.fill("#prompt", "one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    answered(page)
    assert page.locator(".bubble").inner_text() == "one\ntwo"
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+?")
    expect(page.locator("#help-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help-dialog")).to_be_hidden()
    page.keyboard.press("/")
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.press("Shift+?")  # in the box it is a character
    expect(page.locator("#prompt")).to_have_value("?")
    page.keyboard.press("Control+Shift+O")
    expect(page.locator("#welcome")).to_be_visible()


CONTRAST = """() => {
  const parse = (c) => {
    const [r, g, b, a = 1] = c.match(/[\\d.]+/g).map(Number);
    return { rgb: [r, g, b], a };
  };
  const light = (rgb) => rgb.map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const { rgb, a } = parse(getComputedStyle(e).backgroundColor);
      if (a === 1) return rgb;
    }
    return [255, 255, 255];
  };
  const bad = [];
  let seen = 0;
  for (const e of document.querySelectorAll("body *")) {
    const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    const style = getComputedStyle(e);
    if (!text || !e.checkVisibility() || e.closest(".hidden, :disabled")) continue;
    seen += 1;
    const [a, b] = [light(parse(style.color).rgb), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) bad.push(`${e.className || e.tagName} ${e.textContent} ${ratio.toFixed(2)}`);
  }
  return { bad, seen };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(open_page, scheme):
    page = open_page(color_scheme=scheme)
    seen = []
    for step in ("empty", "Markdown", "Two sums", "Break", "settings"):
        if step == "settings":
            page.click("#open-settings")
        elif step != "empty":
            ask(page, step)
        found = page.evaluate(CONTRAST)
        seen.append(found["seen"])
        assert found["bad"] == []
    assert min(seen) >= 15  # it did look at something


def test_the_colour_switch_goes_round_and_is_kept(open_page):
    page = open_page(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.click("#theme")
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == light
    page.click("#theme")
    assert page.evaluate(ground) == dark
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme ?? 'auto'") == "auto"


def test_every_control_has_a_name_and_motion_can_be_reduced(open_page):
    page = open_page(reduced_motion="reduce")
    ask(page, "Two sums")
    page.click("#open-settings")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, a")]
          .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length))
          .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    moving = "document.getAnimations().filter((a) => a.playState === 'running').length"
    assert page.evaluate(moving) == 0
    page.keyboard.press("Escape")
    assert "The answer" not in page.locator("#announcer").inner_text()
    assert "so 25." in page.locator("#announcer").inner_text()


# --- narrow screens ---


def test_a_phone_shows_everything_without_scrolling_sideways(open_page):
    page = open_page(**PHONE)
    wide = "[document.scrollingElement.scrollWidth, document.querySelector('#scroll').scrollWidth]"
    assert max(page.evaluate(wide)) <= 375
    for text in ("Markdown", "Two sums", "x" * 300, "Break"):
        ask(page, text)
        assert max(page.evaluate(wide)) <= 375
    page.tap("#open-sidebar")
    expect(page.locator("#close-sidebar")).to_be_focused()
    assert page.evaluate("document.querySelector('#main').inert")
    page.tap(".chat-row .open")
    expect(page.locator("#shade")).to_be_hidden()
    assert page.evaluate("document.querySelector('#sidebar').inert")
    page.tap("#open-settings")
    assert page.evaluate("document.querySelector('#settings').scrollWidth") <= 375
    small = page.evaluate(
        """() => [...document.querySelectorAll("input, textarea")]
          .filter((e) => parseFloat(getComputedStyle(e).fontSize) < 16).length"""
    )
    assert small == 0  # a smaller font makes a phone zoom in


def test_the_view_follows_the_answer_unless_the_reader_went_up(open_page, served):
    page = open_page(viewport={"width": 700, "height": 500})
    ask(page, "Markdown")
    served.model.delay_s = 0.01
    try:
        page.fill("#prompt", "Count")
        page.keyboard.press("Enter")
        expect(last_answer(page).locator(".text")).to_contain_text("1 2 3")
        page.evaluate("document.querySelector('#scroll').scrollTop = 0")
        expect(page.locator("#jump")).to_be_visible()
        expect(last_answer(page).locator(".text")).to_contain_text("20 21")
        assert page.evaluate("document.querySelector('#scroll').scrollTop") == 0
        page.click("#jump")
        expect(page.locator("#jump")).to_be_hidden()
    finally:
        served.model.delay_s = 0.0
