"""A headless Chromium for the tests of the page, and what it said while it was open."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REQUIRED = "GLMC_REQUIRE_BROWSER"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()


def chromium() -> str:
    """The browser's path; skips the test without one, or fails it where one is required."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return without("the package playwright is not installed")
    return found or without("no Chromium is installed")


def without(reason: str) -> str:
    """Skips the test, or fails it where a browser is required."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{reason}, and {REQUIRED} is set")
    pytest.skip(reason)


class Opened:
    """A page; ``complaints`` are errors of the console and requests that leave the machine."""

    def __init__(self, page: Any, file: Path) -> None:
        self.page, self.file = page, file
        self.complaints: list[str] = []
        page.on("console", lambda said: self._said(said.type, said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._asked(request.url))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(f"{kind}: {text}")

    def _asked(self, address: str) -> None:
        if not address.startswith(("file:", "data:")):
            self.complaints.append(f"asked for {address}")

    def at(self, address: str = "") -> Any:
        """The page at this address, loaded anew."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.file.as_uri()}{address}")
        return self.page


@contextmanager
def opened_page(browser: Any, file: Path) -> Iterator[Opened]:
    """A page of a browser for a file, of which nothing may complain."""
    made = Opened(browser.new_page(viewport={"width": 1280, "height": 900}), file)
    yield made
    assert made.complaints == []
    made.page.close()


@contextmanager
def running() -> Iterator[Any]:
    """A Chromium of playwright's; one at a time."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()
