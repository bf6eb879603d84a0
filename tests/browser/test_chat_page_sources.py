"""Sources of an answer on the chat page: listed below it, cited in it, and never trusted.

The model has none to give yet, so the answers come from a second server of the test: the page's
request is sent on to it, and what it streams arrives over HTTP as any answer does.
Read: Answers -> answering -> the tests.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.chat_steps import ask, last_answer, requests_of

pytestmark = pytest.mark.browser
LAMP: dict[str, Any] = {
    "id": 1,
    "title": "Lamps",
    "url": "https://example.com/lamps",
    "text": "A lamp gives light.",
}
DRUM = {"id": 2, "title": "Drums & sticks", "url": "", "text": "line one\n  line two"}
END = {
    "choices": [],
    "usage": {"completion_tokens": 5, "prompt_tokens": 9},
    "timings": {"tokens_per_s": 50.0, "first_token_s": 0.01},
    "stop_detail": "stop",
    "seed": 3,
}


class Answers(BaseHTTPRequestHandler):
    """Streams `deltas`; before a delta that is None it waits until the test says `go`."""

    deltas: list[dict[str, Any] | None]
    go: threading.Event

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for delta in self.deltas:
            if delta is None:
                assert self.go.wait(60)
            else:
                self.put({"choices": [{"index": 0, "delta": delta}]})
        self.put(END)
        self.wfile.write(b"data: [DONE]\n\n")

    def put(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Not into the test's output."""


@pytest.fixture
def answering() -> Iterator[Any]:
    """answering(page, deltas) -> the event that lets the answer go on after a None."""
    servers = []

    def send_on(page: Page, deltas: list[dict[str, Any] | None]) -> threading.Event:
        go = threading.Event()
        kind = type("Scripted", (Answers,), {"deltas": deltas, "go": go})
        server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        servers.append((server, thread, go))
        address = f"http://127.0.0.1:{server.server_port}/"
        page.unroute_all()
        page.route("**/v1/chat/completions", lambda route: route.continue_(url=address))
        return go

    yield send_on
    for server, thread, go in servers:
        go.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_sources_stream_in_are_numbered_and_open_from_their_citations(open_page, answering):
    page = open_page(bypass_csp=False)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    text = "A lamp gives light [1], a drum does not [2, 9]. `x[1]` and [1](https://example.org/)"
    go = answering(page, [{"sources": [LAMP]}, {"content": text}, None, {"sources": [DRUM]}])
    page.fill("#prompt", "What gives light?")
    page.keyboard.press("Enter")
    listed = last_answer(page).locator(".sources")
    expect(listed.locator("> summary")).to_have_text("1 source")  # the answer has not ended
    expect(page.locator("#send.busy")).to_be_visible()
    expect(last_answer(page).locator(".cite")).to_have_text(["[1]"])
    go.set()
    expect(listed.locator("> summary")).to_have_text("2 sources")
    expect(last_answer(page).locator(".stats")).to_contain_text("seed 3")
    expect(last_answer(page).locator(".text")).to_have_text(
        "A lamp gives light [1], a drum does not [2][9]. x[1] and 1"
    )
    expect(last_answer(page).locator(".cite")).to_have_text(["[1]", "[2]"])
    expect(page.locator("#announcer")).to_contain_text("2 sources are listed below")

    expect(listed.get_by_role("listitem").first).to_be_hidden()
    before = page.url
    page.get_by_role("link", name="Source 2: Drums & sticks").focus()
    page.keyboard.press("Enter")
    second = listed.locator("li").nth(1)
    expect(second).to_be_focused()
    assert second.locator(".passage").inner_text() == DRUM["text"]
    expect(second.get_by_role("link")).to_have_count(0)
    assert page.url == before  # which names the open chat
    listed.locator("li").first.locator("summary").click()
    link = listed.get_by_role("link", name="Open on example.com")
    expect(link).to_have_attribute("href", LAMP["url"])
    expect(link).to_have_attribute("rel", "noopener noreferrer nofollow")
    expect(link).to_have_attribute("target", "_blank")
    listed.locator("> summary").click()
    expect(second).to_be_hidden()
    assert complaints == []  # the page's own policy was kept


def test_sources_are_kept_with_their_message_exported_and_not_sent_back(open_page, answering):
    page = open_page()
    answering(page, [{"content": "A lamp [1]."}, {"sources": [LAMP]}])
    ask(page, "What gives light?")
    page.unroute_all()
    page.reload()
    expect(last_answer(page).locator(".cite")).to_have_text("[1]")
    expect(last_answer(page).locator(".sources > summary")).to_have_text("1 source")
    bodies = requests_of(page)
    ask(page, "Hello")
    assert bodies[0]["messages"][1] == {"role": "assistant", "content": "A lamp [1]."}
    expect(last_answer(page).locator(".sources, .cite")).to_have_count(0)
    page.locator(".chat-row .icon-button").click()
    with page.expect_download() as saved:
        page.get_by_role("menuitem", name="Export as Markdown").click()
    assert "- [1] Lamps <https://example.com/lamps>" in saved.value.path().read_text("utf-8")


HOSTILE = "<img src=x onerror='window.pwned = 1'><script>window.pwned = 1</script>"
HOSTILE_SOURCES: list[Any] = [
    {"id": 1, "title": HOSTILE, "url": "javascript:window.pwned=1", "text": HOSTILE},
    {"id": 2, "title": "data", "url": "data:text/html,<script>window.pwned=1</script>", "text": ""},
    {"id": 3, "title": "spaces", "url": " java\nscript:window.pwned=1", "text": "t"},
    {"id": 4, "title": "file", "url": "file:///etc/passwd", "text": "t"},
    {"id": 5, "title": "own page", "url": "//evil.example/x", "text": "t"},
    {"id": 6, "title": "a" * 5000, "url": "https://good.example@evil.example/", "text": "b" * 9000},
    {"id": 7, "title": {"toString": "x"}, "url": ["https://example.com"], "text": 5},
    {"id": "8", "title": "an id that is text", "url": "", "text": "t"},
    {"id": 10**9, "title": "a huge id", "url": "", "text": "t"},
    {"id": 1.5, "title": "half an id", "url": "", "text": "t"},
    None, 5, "text", [], {},
]  # fmt: skip


@pytest.mark.parametrize("way", ["streamed", "stored"])
def test_hostile_sources_stay_text_and_lead_nowhere(open_page, answering, way):
    page = open_page()
    text = "[1] [2] [3] [4] [5] [6] [7] [8]"
    if way == "streamed":
        answering(page, [{"sources": HOSTILE_SOURCES}, {"content": text}])
        ask(page, "Who is there?")
    else:
        answer: dict[str, Any] = {
            "id": '"><b>',
            "role": "assistant",
            "parts": [{"type": "text", "text": text}],
        }
        answer |= {"state": "done", "stats": None, "sources": HOSTILE_SOURCES}
        question = {"id": "q", "role": "user", "text": "Who is there?"}
        chat = {"id": "c", "title": "t", "created": 1, "updated": 1, "messages": [question, answer]}
        page.evaluate("chat => localStorage.setItem('nanochat:chat:c', chat)", json.dumps(chat))
        page.goto(page.url + "#c")
        page.reload()
    expect(last_answer(page).locator(".cite")).to_have_text([f"[{n}]" for n in range(1, 7)])
    for n in range(6):
        last_answer(page).locator(".cite").nth(n).click()
    listed = last_answer(page).locator(".sources")
    titles = listed.locator("bdi").all_inner_texts()
    assert titles == [HOSTILE, "data", "spaces", "file", "own page", "a" * 200 + "…"]
    assert listed.locator(".passage").first.inner_text() == HOSTILE
    assert len(listed.locator(".passage").last.inner_text()) == 4001
    expect(listed.locator("img, script, svg:not(.icon), iframe, b")).to_have_count(0)
    links = listed.locator("a").evaluate_all("all => all.map((a) => [a.href, a.textContent])")
    assert links == [["https://good.example@evil.example/", "Open on evil.example"]]
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("document.querySelector('#scroll').scrollWidth <= innerWidth")


def test_what_is_no_list_of_sources_shows_none_and_the_answer_stands(open_page, answering):
    page = open_page()
    for given in (None, 5, "text", {"id": 1}, [None], [{"id": 0, "title": "x"}]):
        answering(page, [{"content": f"To {given} [1]."}, {"sources": given}])
        ask(page, "Hello")
        expect(last_answer(page).locator(".text")).to_have_text(f"To {given} [1].")
    expect(page.locator(".sources, .cite")).to_have_count(0)
