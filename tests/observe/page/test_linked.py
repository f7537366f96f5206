"""The page of a compile as another page leads to it: its address, and whose compile it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from glmc.errors import UsageError
from glmc.observe.page.linked import compile_page
from glmc.observe.page.render import page
from tests.observe.sample import FACTS, history


def test_a_page_is_of_one_side(tmp_path: Path) -> None:
    place = tmp_path / "dump" / "index.html"
    place.parent.mkdir()
    place.write_text(page(history(), FACTS), encoding="utf-8")
    linked = compile_page(place, tmp_path / "align.html")
    assert linked.address == "dump/index.html"
    linked.require_one_of([("toy-moe", "eager"), ("toy-moe", "xpu")])
    for sides, expected in (
        ([("toy-moe", "cuda"), ("", "")], "the page of toy-moe for cuda"),
        ([("", "xpu")], "files that say their model"),
        ([], "files that say their model"),
    ):
        with pytest.raises(UsageError, match="another compile") as raised:
            linked.require_one_of(sides)
        assert raised.value.expected == expected and raised.value.found == "toy-moe for xpu"
        assert raised.value.remedy == "glmc inspect ARTIFACT --page FILE"


def test_what_was_not_lowered_is_of_no_target(tmp_path: Path) -> None:
    place = tmp_path / "index.html"
    place.write_text(page(replace(history(), plans=(), target="")), encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        compile_page(place, tmp_path / "a").require_one_of([("toy-moe", "xpu")])
    assert raised.value.found == "toy-moe for no target"
