"""Talking to the chat page in a real Chromium, and what the browser keeps of it."""

import json
import re

import pytest
from playwright.sync_api import expect
from scripted_chat import SCRIPT, STORY, scripted_engine
from served_chat import serving

from nanochat.serve.access import hash_of
from tests.browser.chat_steps import answered, ask, last_answer, requests_of

pytestmark = pytest.mark.browser


# --- talking ---


def test_an_example_is_answered_with_a_calculator_card_and_a_line_of_numbers(open_page):
    page = open_page()
    page.click("text=What is 48*7?")
    answered(page)
    card = last_answer(page).locator(".tool-card")
    assert re.sub(r"\s", "", card.locator(".sum").inner_text()) == "48×7=336"
    expect(last_answer(page).locator(".text")).to_have_text("48*7 is 336.")
    stats = last_answer(page).locator(".stats").inner_text()
    assert re.fullmatch(r"\d+ tokens · [\d.]+ tokens/s · finished · seed \d+", stats)
    expect(page.locator("#title")).to_have_text("What is 48*7?")


def test_calls_without_a_result_and_several_calls_are_shown_in_order(open_page):
    page = open_page()
    ask(page, "Two sums")
    texts = last_answer(page).locator(".answer > *").all_inner_texts()
    flat = [re.sub(r"\s", "", text) for text in texts]
    assert flat == [
        "Firstone,",
        "Calculator2+3=5",
        "thentheother:",
        "Calculator5×5=25",
        "so25.",
    ]
    ask(page, "Divide by zero")
    expect(last_answer(page).locator(".no-value")).to_have_text("no result")


@pytest.mark.parametrize("way", ["button", "escape"])
def test_stop_keeps_what_was_written_and_ends_the_work(open_page, served, way):
    page = open_page()
    served.model.delay_s = 0.02
    try:
        page.fill("#prompt", "Count")
        page.keyboard.press("Enter")
        expect(last_answer(page).locator(".text")).to_contain_text("1 2 3")
        if way == "button":
            page.click("#send.busy")
        else:
            page.keyboard.press("Escape")
        expect(last_answer(page).locator(".stats")).to_have_text("stopped by you")
        served.until(running=0)
    finally:
        served.model.delay_s = 0.0
    kept = last_answer(page).locator(".text").inner_text()
    assert kept.startswith("1 2 3") and len(kept) < 200
    bodies = requests_of(page)
    ask(page, "Hello")  # the part that was written is in the model's memory
    assert bodies[0]["messages"][1]["content"].startswith("1 2 3")


def test_regenerate_asks_again_with_the_same_history(open_page):
    page = open_page()
    ask(page, "Hello")
    bodies = requests_of(page)
    page.fill("#prompt", "Toss a coin")
    page.keyboard.press("Enter")
    answered(page)
    last_answer(page).get_by_label("Answer again").click()
    expect(page.locator(".message.assistant")).to_have_count(2)
    answered(page)
    page.wait_for_timeout(50)
    assert len(bodies) == 2 and bodies[0]["messages"] == bodies[1]["messages"]


def test_editing_a_message_restarts_from_there_and_undo_brings_the_rest_back(open_page):
    page = open_page()
    for text in ("Hello", "Who are you?", "Spell lantern."):
        ask(page, text)
    page.locator(".message.user").nth(1).hover()
    page.get_by_label("Edit and ask again").nth(1).click()
    page.fill(".editor textarea", "What is 48*7?")
    page.keyboard.press("Enter")
    answered(page)
    expect(page.locator(".bubble")).to_have_text(["Hello", "What is 48*7?"])
    expect(last_answer(page).locator(".text")).to_have_text("48*7 is 336.")
    page.click("text=Undo")
    expect(page.locator(".bubble")).to_have_text(["Hello", "Who are you?", "Spell lantern."])


def test_an_edited_turn_keeps_its_versions_through_a_reload(open_page):
    page = open_page()
    for text in ("Hello", "Who are you?"):
        ask(page, text)
    page.locator(".message.user").first.hover()
    page.get_by_label("Edit and ask again").first.click()
    page.fill(".editor textarea", "What is 48*7?")
    page.keyboard.press("Enter")
    answered(page)
    expect(page.locator(".branches")).to_have_text("2/2")
    page.click("#new-chat")
    expect(page.locator(".toast")).to_have_count(0)  # its Undo belongs to the other chat
    page.click(".chat-row .open")
    page.get_by_label("Earlier version").click()
    expect(page.locator(".bubble")).to_have_text(["Hello", "Who are you?"])
    page.reload()
    expect(page.locator(".branches")).to_have_text("1/2")
    page.get_by_label("Later version").click()
    expect(page.locator(".bubble")).to_have_text(["What is 48*7?"])


def test_chats_are_found_by_a_word_that_was_said_in_them(open_page):
    page = open_page()
    for text in ("Hello", "Spell lantern."):
        ask(page, text)
        page.keyboard.press("Control+Shift+O")
    page.keyboard.press("Control+k")
    page.keyboard.type("l-a-n-t")
    expect(page.locator(".chat-row")).to_have_text(["Spell lantern."])
    page.keyboard.type("zzz")
    expect(page.locator(".nothing")).to_have_text("No chat holds these words.")
    page.keyboard.press("Escape")
    expect(page.locator(".chat-row")).to_have_count(2)


def test_an_edit_can_be_left_with_escape(open_page):
    page = open_page()
    ask(page, "Hello")
    page.click("#prompt")
    page.keyboard.press("ArrowUp")
    page.fill(".editor textarea", "something else")
    page.keyboard.press("Escape")
    expect(page.locator(".bubble")).to_have_text(["Hello"])


def test_failures_are_shown_with_a_retry_and_a_failed_turn_is_not_sent_again(open_page):
    page = open_page()
    ask(page, "Break")
    expect(page.get_by_role("alert")).to_contain_text("The model failed", ignore_case=True)
    page.click("text=Try again")
    answered(page)
    expect(page.get_by_role("alert")).to_have_count(1)
    bodies = requests_of(page)
    ask(page, "Hello")
    assert [m["content"] for m in bodies[0]["messages"]] == ["Hello"]
    page.route("**/chat/completions", lambda route: route.abort())
    ask(page, "Who are you?")
    expect(page.get_by_role("alert").last).to_contain_text("can't be reached")
    page.unroute("**/chat/completions")
    page.locator("text=Try again").last.click()
    expect(last_answer(page).locator(".text")).to_have_text(str(SCRIPT["Who are you?"]))


def test_an_over_long_message_is_explained_with_a_way_out(open_page):
    page = open_page()
    ask(page, "word " * 3000)
    expect(page.get_by_role("alert")).to_contain_text("reads at most 2048")
    page.get_by_role("alert").get_by_role("button", name="New chat").click()
    expect(page.locator("#welcome")).to_be_visible()


def test_a_line_marks_where_the_memory_of_the_model_begins(open_page):
    with serving(scripted_engine(context=160)) as small:
        page = open_page(small)
        for text in ("Spell lantern.", "Who are you?", "Hello", "Who are you?"):
            ask(page, text)
        line = page.locator(".memory-line")
        expect(line).to_have_count(1)
        expect(line).to_contain_text("160 tokens")
        expect(page.locator(".memory-line ~ .user")).not_to_have_count(0)
        page.context.close()


def test_two_chats_are_answered_side_by_side(open_page, served):
    page = open_page()
    served.model.delay_s = 0.02
    try:
        page.fill("#prompt", "Tell me a story about Anna and a lamp.")
        page.keyboard.press("Enter")
        expect(last_answer(page).locator(".text")).to_contain_text("Anna")
        page.click("#new-chat")
        ask(page, "Hello")
    finally:
        served.model.delay_s = 0.0
    expect(last_answer(page).locator(".text")).to_have_text(str(SCRIPT["Hello"]))
    page.click(".chat-row >> text=Tell me a story")
    expect(last_answer(page).locator(".text")).to_have_text(STORY)


# --- what the browser keeps ---


def test_a_reload_keeps_the_chat_open_and_its_cards(open_page):
    page = open_page()
    ask(page, "What is 48*7?")
    ask(page, "Hello")
    before = page.locator("#messages").inner_text()
    page.reload()
    expect(page.locator(".tool-card")).to_have_count(1)
    assert page.locator("#messages").inner_text() == before
    expect(page.locator(".chat-row")).to_have_count(1)


def test_a_reload_in_the_middle_of_an_answer_keeps_its_beginning(open_page, served):
    page = open_page()
    served.model.delay_s = 0.02
    try:
        page.fill("#prompt", "Count")
        page.keyboard.press("Enter")
        expect(last_answer(page).locator(".text")).to_contain_text("1 2 3")
        page.reload()
    finally:
        served.model.delay_s = 0.0
    expect(last_answer(page).locator(".stats")).to_have_text("stopped by you")
    expect(last_answer(page).locator(".text")).to_contain_text("1 2 3")


def test_chats_can_be_renamed_exported_deleted_and_brought_back(open_page):
    page = open_page()
    for text in ("Hello", "What is 48*7?"):
        page.keyboard.press("Control+Shift+O")
        ask(page, text)
    row = page.locator(".chat-row").first
    menu = row.locator(".icon-button")
    menu.click()
    page.get_by_role("menuitem", name="Rename").click()
    page.fill(".rename", "Sums")
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text("Sums")
    menu.click()
    with page.expect_download() as saved:
        page.get_by_role("menuitem", name="Export as Markdown").click()
    assert saved.value.suggested_filename == "Sums.md"
    assert "`48*7` = `336`" in saved.value.path().read_text(encoding="utf-8")
    menu.click()
    with page.expect_download() as saved:
        page.get_by_role("menuitem", name="Export as JSON").click()
    chat = json.loads(saved.value.path().read_text(encoding="utf-8"))
    assert [part["type"] for part in chat["messages"][1]["parts"]] == [
        "python",
        "python_output",
        "text",
    ]
    menu.click()
    page.get_by_role("menuitem", name="Delete").click()
    expect(page.locator(".chat-row")).to_have_count(1)
    page.click("text=Undo")
    expect(page.locator(".chat-row")).to_have_count(2)
    expect(page.locator("#title")).to_have_text("Sums")
    page.reload()
    expect(page.locator(".chat-row")).to_have_count(2)


def test_another_tab_shows_a_new_chat_and_a_damaged_one_harms_no_other(open_page):
    page = open_page()
    ask(page, "Hello")
    other = page.context.new_page()
    other.goto(page.url.partition("#")[0])
    expect(other.locator(".chat-row")).to_have_count(1)
    page.click("#new-chat")
    ask(page, "Who are you?")
    expect(other.locator(".chat-row")).to_have_count(2)
    page.evaluate("localStorage.setItem('nanochat:chat:bad', '{half')")
    page.evaluate('localStorage.setItem(\'nanochat:chat:odd\', \'{"id": "odd", "title": 5}\')')
    other.reload()
    expect(other.locator(".chat-row")).to_have_count(2)


def test_a_full_browser_says_so_and_the_chat_goes_on(open_page):
    page = open_page()
    page.evaluate("() => { Storage.prototype.setItem = () => { throw new DOMException('full') } }")
    ask(page, "Hello")
    expect(page.locator(".toast")).to_contain_text("no room")
    expect(last_answer(page).locator(".text")).to_have_text(str(SCRIPT["Hello"]))


def test_a_server_with_keys_is_unlocked_in_the_page_and_the_tab_forgets_the_key(
    open_page, tmp_path
):
    key, file = "nc-a-key-of-the-test", tmp_path / "keys.txt"
    file.write_text(f"anna {hash_of(key)}\n")
    with serving(scripted_engine(), api_keys_file=str(file)) as locked:
        page = open_page(locked)
        ask(page, "Hello")
        for wrong in ("nc-another-key", "n\u00f6-key", "two words"):
            alert = page.get_by_role("alert").last
            expect(alert).to_contain_text("asks for an API key")
            alert.get_by_role("button", name="Enter the API key").click()
            expect(page.get_by_label("API key")).to_be_focused()
            expect(page.get_by_label("API key")).to_have_attribute("type", "password")
            page.keyboard.press("ControlOrMeta+a")
            page.keyboard.type(wrong)
            page.keyboard.press("Escape")
            page.get_by_role("alert").last.get_by_role("button", name="Try again").click()
            answered(page)
        page.get_by_role("alert").last.get_by_role("button", name="Enter the API key").click()
        page.get_by_label("API key").fill(f" {key} ")
        page.keyboard.press("Escape")
        page.get_by_role("alert").last.get_by_role("button", name="Try again").click()
        expect(last_answer(page).locator(".text")).to_have_text(str(SCRIPT["Hello"]))
        page.reload()
        ask(page, "Who are you?")
        expect(last_answer(page).locator(".text")).to_have_text(str(SCRIPT["Who are you?"]))
        kept = page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")
        assert key not in kept
        fresh = page.context.new_page()  # another tab of the same browser
        fresh.goto(str(locked.client.base_url))
        ask(fresh, "Hello")
        expect(fresh.get_by_role("alert")).to_contain_text("asks for an API key")
        page.context.close()
