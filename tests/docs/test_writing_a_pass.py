"""The pass and the test that docs/writing_a_pass.md shows are run as they stand there.

The page's own test functions are collected below, beside a check that they can fail.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

import glmc.passes
from glmc.pipeline import PASSES
from tests.docs.markdown import ROOT, blocks, section

PAGE = ROOT / "docs" / "writing_a_pass.md"
PASS_SOURCE, TEST_SOURCE = (block.text for block in blocks(PAGE, "python"))
NAME = "glmc.passes.silu_mul"


def module(name: str, source: str) -> ModuleType:
    """A module made from a block of the page, known to the import system."""
    made = ModuleType(name)
    sys.modules[name] = made
    exec(compile(source, f"{PAGE.name}:{name}", "exec", dont_inherit=True), made.__dict__)
    return made


def page_test(pass_source: str) -> ModuleType:
    """The page's test module, importing the pass from ``pass_source``."""
    setattr(glmc.passes, "silu_mul", module(NAME, pass_source))  # noqa: B010
    return module("tests.passes.page_of_silu_mul", TEST_SOURCE)


_page = page_test(PASS_SOURCE)
_functions: dict[str, Any] = {
    name: value for name, value in vars(_page).items() if name.startswith("test_")
}
globals().update(_functions)


def test_the_page_holds_one_pass_and_one_test() -> None:
    assert len(blocks(PAGE, "python")) == 2
    assert len(_functions) >= 4
    assert not (ROOT / "glmc" / "passes" / "silu_mul.py").exists()


def test_the_page_names_real_neighbours() -> None:
    names = [each.name for each in PASSES]
    assert "gate_up_merge" in names
    assert "silu_mul" not in names
    assert "`gate_up_merge`" in section(PAGE, "Making it run")


@pytest.mark.parametrize("twist", _page.TWISTS, ids=lambda twist: twist.__name__)
def test_each_twist_needs_its_condition(twist: Any) -> None:
    """Without the line that refuses it, the page's test of a twist fails."""
    condition = _page.TWISTS[twist]
    kept = [line for line in PASS_SOURCE.splitlines() if condition not in line]
    assert len(kept) == len(PASS_SOURCE.splitlines()) - 1
    weaker = page_test("\n".join(kept))
    try:
        (same,) = [each for each in weaker.TWISTS if each.__name__ == twist.__name__]
        with pytest.raises((AssertionError, RuntimeError)):
            weaker.test_refuses(same)
    finally:
        page_test(PASS_SOURCE)
