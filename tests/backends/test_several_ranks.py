"""Plans of several ranks, on every target: what is called, and that the runtime takes the calls."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc.ir.layout import even
from glmc.presets.names import preset_names
from glmc.presets.published import load_preset
from glmc_runtime.format.phases import DECODE, PREFILL
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
        quick=[
            *((place, 2, True) for place in PLACES),
            (("cpu", None), 8, False),
            (("xpu", "P-A"), 4, False),
        ],
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


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_widths_of_a_ranks_experts_are_aligned_for_the_vendor(name: str, ranks: int) -> None:
    """In all dtypes, without anything filled up: its activation refuses other rows."""
    config = load_preset(name).config
    widths = {config["intermediate_size"], config.get("moe_intermediate_size", 0)} - {0}
    for width in widths:
        layout = even(width, ranks)
        assert not layout.padded and layout.local * 2 % SWIGLU_ROW_BYTES == 0
