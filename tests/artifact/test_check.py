"""What the compiler emits is what the runtime takes, for every target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from glmc.artifact.check import check_plans
from glmc.compiled import Compiled, manifest_parts
from glmc.compiler import back_end, front_end
from glmc.config import CompileOptions
from glmc.errors import InternalError
from glmc.job import resolve
from glmc.presets.catalog import load_config
from glmc_runtime.format.manifest import Manifest, WeightEntry
from glmc_runtime.format.phases import DECODE
from glmc_runtime.format.plan import ValueArgument
from glmc_runtime.kernels.interpreter import triton_found

MODELS = Path(__file__).parents[2] / "models"
PLACES = (("cpu", None), ("cuda", None), ("xpu", "P-A"), ("xpu", "P-B"), ("xpu", "P-C"))
pytestmark = pytest.mark.usefixtures("shared_captures")


def manifest(compiled: Compiled) -> Manifest:
    entries = {
        name: WeightEntry(("none",), str(weight.dtype).removeprefix("torch."), weight.shape)
        for name, weight in compiled.weights.items()
    }
    parts = vars(manifest_parts(compiled))
    return Manifest(**parts, weights=entries, weights_included=False, files={})


@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        ("tiny-moe", "bfloat16"),
        pytest.param("tiny-moe", "float32", marks=pytest.mark.slow),
        pytest.param("tiny-dense", "bfloat16", marks=pytest.mark.slow),
        pytest.param("tiny-dense", "float32", marks=pytest.mark.slow),
    ],
)
def test_the_plans_of_each_target_pass(model: str, dtype: str) -> None:
    source = load_config(str(MODELS / model))
    front = front_end(resolve(source, CompileOptions(dtype=dtype)))
    for target, profile in PLACES:
        if target == "cuda" and not triton_found():
            continue
        options = CompileOptions(target=target, abi_profile=profile, dtype=dtype)
        compiled = back_end(front, resolve(source, options))
        check_plans(compiled.plans, manifest(compiled))
    plans = dict(compiled.plans)
    first, *others = plans[DECODE.key].calls
    wrong = replace(first, arguments={**first.arguments, "surplus": ValueArgument(1)})
    plans[DECODE.key] = replace(plans[DECODE.key], calls=(wrong, *others))
    with pytest.raises(InternalError, match="no argument 'surplus'") as caught:
        check_plans(plans, manifest(compiled))
    assert first.function in caught.value.place
    with pytest.raises(InternalError, match="lists other plans"):
        check_plans({DECODE.key: compiled.plans[DECODE.key]}, manifest(compiled))
