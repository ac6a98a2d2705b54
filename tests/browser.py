"""A page in a real browser: headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from tests.groups import find

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
WIDTH = 1280


@contextmanager
def opened(page: Path, profile: Path) -> Iterator[Chrome]:
    """Opens a file, 1280 pixels wide; the profile must be a new folder."""
    options = ChromeOptions()
    options.binary_location = find("chromium")
    for flag in (*_FLAGS, f"--user-data-dir={profile}", f"--window-size={WIDTH},900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options, ChromeService(find("chromedriver")))
    try:
        browser.get(page.absolute().as_uri())
        yield browser
    finally:
        browser.quit()


def check_page(browser: Chrome) -> None:
    """Fails if the page reported an error, asked for anything, or is wider than the window."""
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    loaded = browser.execute_script("return performance.getEntriesByType('resource').length")
    assert loaded == 0
    widths = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    needed, there = browser.execute_script(widths)
    assert needed <= there == WIDTH


def photograph(browser: Chrome, target: Path) -> None:
    """Takes a picture of the whole page."""
    height = browser.execute_script("return document.documentElement.scrollHeight")
    browser.set_window_size(WIDTH, height + 200)
    assert browser.save_screenshot(str(target))
