"""Mutants of every kind of each spelling: rope."""

from __future__ import annotations

import pytest

from tests.mutation.whole import require_no_faults, subjects_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", subjects_of("rope"))
def test_mutants(name: str) -> None:
    require_no_faults(name)
