"""What several test files share: a real browser, started once for all of them.

Importing this costs nothing: playwright is loaded by the first test that asks for a browser.
"""

import shutil
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs deaf to Ctrl-C, and what the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: minutes of plain Python, which would else run alone at the end."""
    items.sort(key=lambda item: item.path.name != "test_microgpt.py")


@pytest.fixture(scope="session")
def chromium() -> "Iterator[Browser]":
    """A headless Chromium of the machine; dev/browser.sh installs one where it is missing."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    assert found, "no Chromium here: run dev/browser.sh, then these tests again"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(QUIET))
        yield browser
        browser.close()
