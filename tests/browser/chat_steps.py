"""What a person does on the chat page, as the tests say it: ask, wait for the answer, look."""

from typing import Any

from playwright.sync_api import Locator, Page, Request, expect

expect.set_options(timeout=60_000)  # a busy machine is slow, not wrong


def ask(page: Page, text: str) -> None:
    """Send and wait for the end of the answer."""
    page.fill("#prompt", text)
    page.click("#send")
    answered(page)


def answered(page: Page) -> None:
    expect(page.locator(".message.assistant").last.locator(".foot > *")).not_to_have_count(0)
    expect(page.locator("#send:not(.busy)")).to_be_visible()


def last_answer(page: Page) -> Locator:
    return page.locator(".message.assistant").last


def requests_of(page: Page) -> list[dict[str, Any]]:
    """The bodies of all questions the page asks from now on."""
    bodies: list[dict[str, Any]] = []

    def note(request: Request) -> None:
        if request.url.endswith("/chat/completions"):
            bodies.append(request.post_data_json)

    page.on("request", note)
    return bodies
