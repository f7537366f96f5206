"""Names that the command line knows without importing a pass are those of the pipeline."""

from __future__ import annotations

from glmc.compiler import STAGES
from glmc.config import PROFILES
from glmc.observe.dump.stages import known_names
from glmc.observe.history import times
from glmc.passes import specialise
from glmc.pipeline.names import FIXED_STEPS, PASSES, SHARD, STEPS
from glmc.pipeline.stages import FIXED
from glmc.pipeline.stages import PASSES as BODIES
from glmc_runtime.kernels.vendor_functions import row


def test_the_names_are_those_of_the_passes_in_their_order() -> None:
    assert tuple(each.name for each in BODIES) == PASSES
    assert set(FIXED_STEPS) == set(FIXED) - set(PASSES)
    assert known_names((*PASSES, SHARD)) == STEPS
    assert known_names() == tuple(name for name in STEPS if name != SHARD)


def test_the_profiles_are_those_of_the_vendor_functions() -> None:
    assert row.PROFILES == PROFILES


def test_times_are_found_by_the_names_of_their_stages() -> None:
    assert specialise.NAME == times.SPECIALISE
    assert {f"{times.LOWER}{name}" for name in specialise.PHASE_NAMES} <= set(STAGES)
