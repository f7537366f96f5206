"""One Chromium for all tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glmc.observe.page.render import page
from tests.observe.page.browser import Opened, opened_page, running
from tests.observe.sample import FACTS, history


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    with running() as started:
        yield started


@pytest.fixture(scope="package")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the sample."""
    place = tmp_path_factory.mktemp("page") / "index.html"
    place.write_text(page(history(), FACTS), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def here(browser: Any, file: Path) -> Iterator[Opened]:
    with opened_page(browser, file) as made:
        yield made


@pytest.fixture
def opened(browser: Any, shown: Path) -> Iterator[Opened]:
    """The page that a module's fixture ``shown`` has written."""
    with opened_page(browser, shown) as made:
        yield made
