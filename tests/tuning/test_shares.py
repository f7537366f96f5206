"""What one of several cards has, beside what a plan of so many ranks has."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from glmc.config import CompileOptions
from glmc.estimates.few_layers import captured, planned
from glmc.job import read_job
from glmc_runtime.format.plan import WeightArgument
from tuning import tunables_attention, tunables_dense, tunables_moe
from tuning.shares import kv_heads_of_rank, share


def test_sizes_that_do_not_divide_are_refused() -> None:
    assert (share(12, 4), kv_heads_of_rank(8, 4), kv_heads_of_rank(2, 8)) == (3, 2, 1)
    for size, ranks in ((32, 3), (32, 0)):
        with pytest.raises(ValueError, match=f"{size} is not dealt evenly to {ranks} ranks"):
            share(size, ranks)
    with pytest.raises(ValueError, match="not dealt evenly"):
        tunables_dense.tunables((3,))


@pytest.mark.long
@pytest.mark.parametrize(("preset", "ranks"), [("glm-4-9b-0414", 4), ("glm-4.5-air", 8)])
def test_a_plan_has_these_products_and_no_others(preset: str, ranks: int) -> None:
    options = CompileOptions(target="cuda", tensor_parallel=ranks)
    plans = planned(captured(read_job(preset, options)))
    weights = plans.manifest.weights
    plain, gated = tunables_dense.preset_shapes(ranks)
    shapes = {"cuda.linear": plain, "cuda.linear_swiglu": gated}
    found = set()
    for plan in plans.plans.values():
        for call in plan.calls:
            if call.function in shapes:
                weight = call.arguments["weight"]
                assert isinstance(weight, WeightArgument) and weight.rows is None
                assert tuple(weights[weight.weight].shape) in shapes[call.function]
                found.add(call.function)
    assert found == shapes.keys()


def test_heads_and_widths_of_experts_are_dealt() -> None:
    attention = {each.key for each in tunables_attention.tunables((4,))}
    assert {"8x1x128@2048", "24x2x128@2048"} <= attention
    experts = {each.key for each in tunables_moe.tunables((8,)) if each.kernel == "moe_ffn"}
    assert {"128x176x4096k8", "160x192x5120k8"} <= experts
