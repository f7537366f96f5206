"""The pass and the test that docs/writing_a_pass.md shows are files of glmc, word for word.

The test is run where it lies; here is the check that each of its twists can fail.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

import glmc.passes
from glmc.passes import silu_mul
from glmc.pipeline import PASSES
from tests.docs.markdown import ROOT, blocks, section

PAGE = ROOT / "docs" / "writing_a_pass.md"
PASS_SOURCE, TEST_SOURCE = (block.text for block in blocks(PAGE, "python"))
FILES = {"glmc/passes/silu_mul.py": PASS_SOURCE, "tests/passes/test_silu_mul.py": TEST_SOURCE}


def module(name: str, source: str) -> ModuleType:
    """A module made from a block of the page, known to the import system."""
    made = ModuleType(name)
    sys.modules[name] = made
    exec(compile(source, f"{PAGE.name}:{name}", "exec", dont_inherit=True), made.__dict__)
    return made


@contextmanager
def page_test(pass_source: str) -> Iterator[ModuleType]:
    """The page's test module, importing a pass made from ``pass_source``; then all is as before."""
    setattr(glmc.passes, "silu_mul", module(silu_mul.__name__, pass_source))  # noqa: B010
    try:
        yield module("tests.passes.page_of_silu_mul", TEST_SOURCE)
    finally:
        setattr(glmc.passes, "silu_mul", silu_mul)  # noqa: B010
        sys.modules[silu_mul.__name__] = silu_mul
        del sys.modules["tests.passes.page_of_silu_mul"]


with page_test(PASS_SOURCE) as _page:
    TWISTS: dict[Any, str] = _page.TWISTS


def test_the_page_holds_one_pass_and_one_test() -> None:
    assert len(blocks(PAGE, "python")) == len(FILES)


@pytest.mark.parametrize("path", FILES)
def test_the_page_shows_the_file_that_it_names(path: str) -> None:
    assert f": `{path}`" in PAGE.read_text(encoding="utf-8")
    assert (ROOT / path).read_text(encoding="utf-8").strip() == FILES[path].strip()


def test_the_page_names_real_neighbours() -> None:
    names = [each.name for each in PASSES]
    assert names.index("silu_mul") == names.index("gate_up_merge") + 1
    assert "`gate_up_merge`" in section(PAGE, "Making it run")


@pytest.mark.parametrize("twist", TWISTS, ids=lambda twist: twist.__name__)
def test_each_twist_needs_its_condition(twist: Any) -> None:
    """Without the line that refuses it, the page's test of a twist fails."""
    condition = TWISTS[twist]
    kept = [line for line in PASS_SOURCE.splitlines() if condition not in line]
    assert len(kept) == len(PASS_SOURCE.splitlines()) - 1
    with page_test("\n".join(kept)) as weaker:
        (same,) = [each for each in weaker.TWISTS if each.__name__ == twist.__name__]
        with pytest.raises((AssertionError, RuntimeError)):
            weaker.test_refuses(same)
