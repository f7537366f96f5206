"""Mutants of every kind of each spelling: moe_gate, moe_ffn, shared_expert."""

from __future__ import annotations

import pytest

from tests.mutation.whole import require_no_faults, subjects_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", subjects_of("moe_gate", "moe_ffn", "shared_expert"))
def test_mutants(name: str) -> None:
    require_no_faults(name)
