"""Pages read back: which one a file is, and the address of one from another."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc.errors import UsageError
from glmc.observe.page.embedded import (
    ALIGNMENT,
    COMPILE,
    TIMELINE,
    content_of,
    embedded_data,
    is_page,
    relative_address,
)
from glmc.observe.page.render import page
from tests.observe.page.test_render import hostile
from tests.observe.sample import FACTS, history


def test_the_data_of_a_page(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    for made in (history(), hostile()):
        file.write_text(page(made, FACTS), encoding="utf-8")
        content = content_of(file, COMPILE)
        assert is_page(content)
        assert embedded_data(file, content, COMPILE)["model"] == made.model


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (page(history(), FACTS), "the page of a compile"),
        ("<p>mine</p>", "no page of glmc's"),
        ('<meta name="generator" content="glmc">', "a page of glmc's"),
        (page(history()).replace('"page":"compile"', '"page":[]'), "a page of glmc's"),
        (page(history()).replace('{"page"', '["page"'), "a page of glmc's"),
        ("", "no page of glmc's"),
    ],
)
def test_another_file_is_refused(content: str, found: str) -> None:
    with pytest.raises(UsageError) as raised:
        embedded_data(Path("p.html"), content, TIMELINE)
    assert raised.value.found == found and raised.value.remedy == "glmc timeline FILE --page PAGE"
    assert "is not the page of a timeline" in str(raised.value)


def test_what_can_not_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError) as raised:
            content_of(path, ALIGNMENT)
        assert "the alignment can't be read" in str(raised.value)
        assert raised.value.remedy == "glmc align A B --page FILE"


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("b.html", "b.html"),
        ("dump/index.html", "dump/index.html"),
        ("../b.html", "../b.html"),
        ("a b#c?.html", "a%20b%23c%3F.html"),
        ("javascript:alert(1)", "javascript%3Aalert%281%29"),
    ],
)
def test_an_address_is_relative_to_the_page(tmp_path: Path, target: str, address: str) -> None:
    (tmp_path / "sub").mkdir()
    page = tmp_path / "sub" / "a.html"
    assert relative_address(page.parent / target, page) == address


def test_folders_that_are_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "deep" / "real").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "real")
    assert relative_address(tmp_path / "b", tmp_path / "link" / "a") == "../../b"


def test_a_page_leads_not_to_itself(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="written over"):
        relative_address(tmp_path / "a", tmp_path / "x" / ".." / "a")
