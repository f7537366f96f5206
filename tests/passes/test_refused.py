"""A pass that is broken on purpose is refused by the compile itself, and what it inserted is gone.

The second net, for what a compile may overlook, is tested in tests/check/verify and tests/bisect.
"""

from __future__ import annotations

import pytest

from glmc.errors import VerificationError
from glmc.ir.program import Program
from glmc.passes.kv_cache import KvCache
from glmc.pipeline import runner
from glmc.pipeline import stages as pipeline
from tests.sabotage import SABOTAGES, checked, checked_paging, sabotaged
from tests.support.models import captured, tiny_config

PAGED = [name for name in SABOTAGES if sabotaged(name).pass_name == KvCache.name]
NAMES = [name for name in SABOTAGES if name not in PAGED]


@pytest.fixture(scope="module")
def steps() -> dict[str, Program]:
    """The program before each pass."""
    program = captured(tiny_config("glm4_moe"))
    found = {}
    for one in pipeline.PASSES:
        found[one.name] = program.copy()
        runner.run_pass(one, program)
    found[KvCache.name] = program
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_rewrite_does_not_stand(steps: dict[str, Program], name: str) -> None:
    broken = checked(sabotaged(name))
    program = steps[broken.name].copy()
    graph, weights = str(program.graph), dict(program.weights)
    result = broken.run(program)
    assert not result.matches and result.near_misses
    for miss in result.near_misses:
        assert " differ by " in miss.condition or "is not read by this pass" in miss.condition
    assert (str(program.graph), program.weights) == (graph, weights)


@pytest.mark.parametrize("layers", [None, (1,)], ids=["everywhere", "one_layer"])
@pytest.mark.parametrize("name", PAGED)
def test_a_broken_paging_is_an_error(
    steps: dict[str, Program], name: str, layers: tuple[int, ...] | None
) -> None:
    """There is no op by op to fall back on. The program is left as it was."""
    program = steps[KvCache.name].copy()
    graph, weights = str(program.graph), dict(program.weights)
    with pytest.raises(VerificationError) as caught:
        checked_paging(name, layers)(16).run(program)
    place = caught.value.place or ""
    layer = 0 if layers is None else 1
    assert f"pass kv_cache, model.layers.{layer}.self_attn" in place
    assert place.endswith(f", layer {layer}")
    assert "glmc.qkv_rope_cache: a difference of at most 0" in caught.value.expected
    assert "off by" in caught.value.found and "on random values" in caught.value.found
    assert (str(program.graph), program.weights, program.phase) == (graph, weights, "stateless")
