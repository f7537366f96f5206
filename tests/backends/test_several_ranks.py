"""Plans of several ranks, on every target: what is called, and that the runtime takes the calls."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from glmc.compiler import compile_model, compile_plan
from glmc.config import CompileOptions
from glmc.ir.layout import even
from glmc.job import read_job
from glmc.presets.names import preset_names
from glmc.presets.published import load_preset
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.format.plan import ValueArgument
from glmc_runtime.kernels.vendor_functions.dense import SWIGLU_ROW_BYTES
from glmc_runtime.loading.check import check_plan
from glmc_runtime.loading.loader import load_artifact
from tests.support.thinned import crossed

MODEL = Path(__file__).parents[2] / "models" / "tiny-moe"
pytestmark = pytest.mark.usefixtures("shared_captures")
PLACES = [("cpu", None), ("cuda", None), *(("xpu", profile) for profile in ("P-A", "P-B", "P-C"))]
LOCAL = {"cpu": "cpu.local_moe_ffn", "cuda": "cuda.local_moe_ffn", "xpu": "aten.local_experts"}
LAYERS, MIXTURES = 4, 3


@pytest.mark.parametrize(
    ("place", "ranks", "by_expert"),
    crossed(
        PLACES,
        [2, 4, 8],
        [False, True],
        quick=[(PLACES[0], 2, True), (PLACES[1], 2, True), (PLACES[2], 4, False)],
        long=[*((place, 2, True) for place in PLACES[2:]), (PLACES[0], 8, False)],
    ),
)
def test_plans_of_the_shipped_mixture(
    place: tuple[str, str | None], ranks: int, by_expert: bool, tmp_path: Path
) -> None:
    target, profile = place
    options = CompileOptions(
        target=target,
        abi_profile=profile,
        weights="none",
        tensor_parallel=ranks,
        expert_parallel=by_expert,
    )
    compile_model(MODEL, tmp_path / "out", options)
    artifact = load_artifact(tmp_path / "out", rank=None)
    for key in (PREFILL.key, DECODE.key):
        plan = artifact.plans[key]
        check_plan(plan, artifact.manifest)
        calls = Counter(call.function for call in plan.calls)
        assert calls[LOCAL[target]] == (MIXTURES if by_expert else 0)
        assert calls["collective.all_gather"] == calls["aten.local_embedding"] == 1
        merged = calls["collective.all_reduce_add_rms_norm"]
        assert merged + calls["collective.all_reduce"] == 2 * LAYERS + 1
        assert bool(merged) == (target == "cpu")
    assert calls["collective.all_reduce"] == (1 if target == "cpu" else 2 * LAYERS + 1)


@pytest.mark.parametrize(("target", "profile"), [("cpu", None), ("xpu", "P-C")])
def test_a_promise_is_kept_by_kernels_of_its_own(
    target: str, profile: str | None, tmp_path: Path
) -> None:
    """Nothing is merged that has no fixed order of sums."""
    options = CompileOptions(
        target=target,
        abi_profile=profile,
        weights="none",
        tensor_parallel=2,
        expert_parallel=True,
        deterministic="batch",
    )
    compile_model(MODEL, tmp_path / "out", options)
    calls = Counter(
        call.function for call in load_artifact(tmp_path / "out", rank=None).plans[DECODE.key].calls
    )
    local = "ordered.local_moe_ffn" if target == "cpu" else "aten.local_experts"
    assert calls[local] == MIXTURES and calls["collective.all_reduce"] == 2 * LAYERS + 1


@pytest.mark.parametrize(
    ("name", "by_expert"),
    crossed(
        ["glm-4-9b-0414", "glm-4.5-air", "glm-4.6"],
        [False, True],
        quick=[],
        long=[("glm-4-9b-0414", False), ("glm-4.5-air", True)],
    ),
)
def test_layers_of_a_preset_on_eight_cards_are_within_the_vendors_limits(
    name: str, by_expert: bool, tmp_path: Path
) -> None:
    """96 query heads on 8 KV heads are 12 on 1 of each rank; 2 KV heads are on four ranks each."""
    config = {**load_preset(name).config, "num_hidden_layers": 5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = CompileOptions(
        target="xpu",
        abi_profile="P-C",
        weights="none",
        tensor_parallel=8,
        expert_parallel=by_expert,
    )
    plan = compile_plan(read_job(tmp_path, options)).plans[DECODE.key]
    heads = {
        (call.arguments["head_num"], call.arguments["kv_head_num"])
        for call in plan.calls
        if call.function == "kunlun_ops.speculative_attention"
    }
    assert heads == {(ValueArgument(config["num_attention_heads"] // 8), ValueArgument(1))}


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_widths_of_a_ranks_experts_are_aligned_for_the_vendor(name: str, ranks: int) -> None:
    """In all dtypes, without anything filled up: its activation refuses other rows."""
    config = load_preset(name).config
    widths = {config["intermediate_size"], config.get("moe_intermediate_size", 0)} - {0}
    for width in widths:
        layout = even(width, ranks)
        assert not layout.padded and layout.local * 2 % SWIGLU_ROW_BYTES == 0


def test_what_is_left_whole_is_said() -> None:
    """The activation of the dense MLP in the first layer is no op then that says how it is cut."""
    off = ("gate_up_merge", "silu_mul")
    options = CompileOptions(weights="none", tensor_parallel=2, passes_off=off)
    remarks = compile_plan(read_job(MODEL, options)).report.remarks
    assert any(remark.startswith("only 9 of 10 parts of the model are dealt") for remark in remarks)
