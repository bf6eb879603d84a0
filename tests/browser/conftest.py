"""Fixtures of the chat page's tests: a server with a scripted model, as a process of its own, and
pages before it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from scripted_chat import ABOUT
from served_chat import SCRIPTED, Asked, Spawned, spawned

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Spawned]:
    with spawned(tmp_path_factory.mktemp("base"), program=SCRIPTED) as running:
        yield running


@pytest.fixture
def open_page(chromium: "Browser", served: Spawned) -> Iterator[Any]:
    """open_page(**context options) -> a page; a script error anywhere on it fails the test."""
    from playwright.sync_api import expect

    contexts, errors = [], []

    def open_one(at: Asked = served, **options: Any) -> "Page":
        # The page's own policy forbids the eval that Playwright's evaluate needs.
        context = chromium.new_context(**({"bypass_csp": True} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(str(at.client.base_url))
        expect(page.locator("#model-chip")).to_have_text(ABOUT.name)  # all scripts have run
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert errors == []
