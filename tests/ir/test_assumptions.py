"""What may be assumed of a program: by its phase, and of no other."""

from __future__ import annotations

import pytest

from glmc.errors import InternalError
from glmc.ir.assumptions import assumptions_of
from glmc_runtime.format.phases import PHASES


def test_the_programs_of_a_compile_and_of_dynamo() -> None:
    compiled = {assumptions_of(phase) for phase in ("stateless", "paged", *PHASES)}
    (assumed,) = compiled
    assert assumed.constant_weights and assumed.step_inputs
    traced = assumptions_of("traced")
    assert not (traced.causal or traced.any_size or traced.step_inputs or traced.constant_weights)


def test_a_phase_that_nobody_registered_is_an_error() -> None:
    with pytest.raises(InternalError, match="'decoding'"):
        assumptions_of("decoding")
