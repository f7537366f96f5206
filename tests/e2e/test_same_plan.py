"""One model, one plan: however it was captured, and however its code was spelled.

Also the budget of vendor calls per layer of that plan, in every ABI profile.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmc.compiled import FrontEnd
from glmc.compiler import back_end, front_end
from glmc.config import CompileOptions
from glmc.job import read_job, resolve
from glmc_runtime.format.plan_json import phase_to_json
from tests.e2e.build import PLACES, Place
from tests.e2e.grid import GRID, Point

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("shared_captures")]
# A leading dense layer, two of experts; the first with groups, the second with q/k norm.
MIXTURES = (GRID[11], GRID[14])
DENSE = (GRID[0], GRID[1])
WAYS: dict[str, dict[str, Any]] = {
    "full": {"full_capture": True},
    "marked": {"marked": True},
    # Neither touches what the other spells otherwise, so one capture shows both.
    "grouped_mm and eager": {"capture_experts": "grouped_mm", "capture_attention": "eager"},
}
BUDGET_DENSE, BUDGET_EXPERTS = 12, 20


def front(point: Point, directory: Path, **capture: Any) -> FrontEnd:
    """Capture and passes of a config alone; no weight is needed for a plan."""
    config = point.config()
    config.architectures = [type(config).__name__.replace("Config", "ForCausalLM")]
    config.dtype = "bfloat16"
    config.save_pretrained(directory)
    return front_end(read_job(directory, CompileOptions(block_size=32, **capture)))


def plans(made: FrontEnd, place: Place, **capture: Any) -> dict[str, Any]:
    """Both plans and the recipe of every weight, as plain data."""
    options = CompileOptions(
        target=place.target, abi_profile=place.profile, block_size=32, **capture
    )
    compiled = back_end(made, resolve(made.job.source, options))
    phases = {str(key): phase_to_json(plan) for key, plan in compiled.plans.items()}
    # Through JSON, as an artifact goes: what differs there differs for the runtime.
    weights = {name: repr(weight) for name, weight in compiled.weights.items()}
    return {**json.loads(json.dumps(phases)), "weights": weights}


def without_origin(found: Any) -> Any:
    """Node ids name the traced operation (``layers.0.self_attn#softmax``); the module stays."""
    if isinstance(found, dict):
        return {key: without_origin(value) for key, value in found.items()}
    if isinstance(found, list):
        return [without_origin(value) for value in found]
    return found.partition("#")[0] if isinstance(found, str) else found


@pytest.mark.parametrize(
    "point",
    [MIXTURES[0], pytest.param(DENSE[0], marks=pytest.mark.slow)],
    ids=lambda point: point.name,
)
def test_every_road_gives_the_same_plan(point: Point, tmp_path: Path) -> None:
    wanted = front(point, tmp_path)
    expected = {place: plans(wanted, place) for place in PLACES[:2]}
    for name, how in WAYS.items():
        made = front(point, tmp_path, **how)
        same_code = "marked" not in how and "capture_attention" not in how
        for place, plan in expected.items():
            found = plans(made, place, **how)
            if same_code:
                assert found == plan, (name, place)
            else:
                assert without_origin(found) == without_origin(plan), (name, place)


@pytest.mark.parametrize("point", [MIXTURES[1], DENSE[1]], ids=lambda point: point.name)
def test_a_decode_layer_keeps_its_budget_of_vendor_calls(point: Point, tmp_path: Path) -> None:
    made = front(point, tmp_path)
    shape = made.job.source.shape
    dense = point.leading_dense if point.family == "glm4_moe" else shape.layers
    for place in PLACES[1:]:
        options = CompileOptions(target="xpu", abi_profile=place.profile, block_size=32)
        report = back_end(made, resolve(made.job.source, options)).report.to_json()
        counts = report["phases"]["decode"]["vendor_calls_by_layer"]
        assert set(counts) == {"outside", *map(str, range(shape.layers))}
        for layer in range(shape.layers):
            budget = BUDGET_DENSE if layer < dense else BUDGET_EXPERTS
            assert counts[str(layer)] <= budget, (place, layer, counts)
        # What is counted as a helper would escape the budget: only data movement may be one.
        kernels = report["phases"]["decode"]["kernels"]
        helpers = {name for name in kernels if not name.startswith(("kunlun_ops.", "aten.linear"))}
        assert all(name.startswith(("aten.", "runtime.", "router.")) for name in helpers), helpers
