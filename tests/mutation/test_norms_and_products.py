"""Mutants of every kind of each spelling: rms_norm, add_rms_norm, gate_up_merge, canonical."""

from __future__ import annotations

import pytest

from tests.mutation.whole import require_no_faults, subjects_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "name", subjects_of("rms_norm", "add_rms_norm", "gate_up_merge", "canonical")
)
def test_mutants(name: str) -> None:
    require_no_faults(name)
