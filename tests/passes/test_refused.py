"""A pass that is broken on purpose is refused by the compile itself, and what it inserted is gone.

The second net, for what a compile may overlook, is tested in tests/verify and tests/bisect.
"""

from __future__ import annotations

import pytest

from glmc import pipeline
from glmc.ir.program import Program
from glmc.passes.kv_cache import KvCache
from tests.sabotage import SABOTAGES, checked, sabotaged
from tests.support.models import captured, tiny_config

NAMES = [name for name in SABOTAGES if sabotaged(name).pass_name != KvCache.name]
# What evaluation can't tell, and the second net does. Beside a sum of sigmoids 1e-20 is nothing but
# where the scores of all experts underflow, which no value of the router's operands makes them do.
STANDS = ("normalise_eps_dropped",)


@pytest.fixture(scope="module")
def steps() -> dict[str, Program]:
    """The program in front of each pass."""
    program = captured(tiny_config("glm4_moe", num_hidden_layers=2))
    found = {}
    for one in pipeline.PASSES:
        found[one.name] = program.copy()
        pipeline.run_pass(one, program)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_rewrite_does_not_stand(steps: dict[str, Program], name: str) -> None:
    broken = checked(sabotaged(name))
    program = steps[broken.name].copy()
    graph, weights = str(program.graph), dict(program.weights)
    result = broken.run(program)
    if name in STANDS:
        assert result.matches and not result.near_misses
        return
    assert not result.matches and result.near_misses
    for miss in result.near_misses:
        assert " differ by " in miss.condition or "is not read by this pass" in miss.condition
    assert (str(program.graph), program.weights) == (graph, weights)
