"""Interpreted kernels of these tests run without the interpreter's repetitions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.interpreted import quick_interpreter


@pytest.fixture(autouse=True, scope="package")
def _quick_interpreter() -> Iterator[None]:
    with quick_interpreter():
        yield
