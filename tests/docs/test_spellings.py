"""docs/spellings.md is the zoo: enough spellings of each pattern, from every version."""

from __future__ import annotations

import re

import pytest

from tests.zoo.table import DOCUMENT, Section, document, sections

ENOUGH = {"moe_gate": 8, "rms_norm": 6, "rope": 5, "attention": 5, "moe_ffn": 5}


def test_document_is_what_the_zoo_holds() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run: python -m tests.zoo.table"


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.pass_name)
def test_each_pattern_has_enough_spellings(section: Section) -> None:
    assert len(section.spellings) >= ENOUGH[section.pass_name]
    origins = [origin for _, origin in section.spellings]
    for version in ("4.57", "5.0", "5.5", "5.8", "5.12", "5.23"):
        assert any(_covers(origin, version) for origin in origins), version
    assert sum(origin.startswith("user rewrite") for origin in origins) >= 4


def _covers(origin: str, version: str) -> bool:
    """``transformers 5.0 to 5.5`` covers 5.0, 5.3 and 5.5; ``4.57 and 5.0`` both of them."""
    if not origin.startswith("transformers"):
        return False
    found = re.match(r"transformers (\d+\.\d+)(?: (to|and) (\d+\.\d+))?", origin)
    assert found, origin
    first, joined, last = found.groups()
    low, high = _number(first), _number(last or first)
    wanted = _number(version)
    return wanted in (low, high) or (joined == "to" and low < wanted < high)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
