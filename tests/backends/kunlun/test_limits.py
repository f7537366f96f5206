from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from glmc.backends.kunlun import TARGET, limits
from glmc.errors import AbiError, InternalError, LoweringError
from glmc.ir.program import ModelShape
from glmc_runtime.kernels.vendor_functions.attention import HEAD_SIZES
from tests.backends.kunlun.harness import options

MODEL = ModelShape(
    name="tiny",
    architecture="Glm4MoeForCausalLM",
    layers=2,
    vocabulary=64,
    hidden=64,
    query_heads=4,
    kv_heads=2,
    head_dim=32,
    maximum_positions=128,
    eos_token_ids=(1,),
    parameters=1,
    tied_embeddings=False,
)


def test_what_is_allowed_passes() -> None:
    for dtype in limits.DTYPES:
        for profile in TARGET.profiles:
            TARGET.check(options(profile, dtype), MODEL)
    TARGET.check(replace(options(), max_sequences=512, block_size=128), MODEL)
    for head_dim in HEAD_SIZES:
        TARGET.check(options(), replace(MODEL, head_dim=head_dim))


@pytest.mark.parametrize(
    ("change", "message", "expected"),
    [
        ({"dtype": torch.float64}, "does not compute in this dtype", "bfloat16"),
        ({"dtype": torch.float8_e4m3fn}, "does not compute in this dtype", "float16"),
        ({"block_size": 24}, "KV block of this size", "16, 32, 64, 128"),
        ({"block_size": 0}, "KV block of this size", "16, 32, 64, 128"),
        ({"block_size": 256}, "KV block of this size", "16, 32, 64, 128"),
        ({"max_sequences": 513}, "1024 is known to fail", "at most 512"),
        ({"max_sequences": 1024}, "1024 is known to fail", "at most 512"),
    ],
)
def test_options_are_refused(change: dict[str, Any], message: str, expected: str) -> None:
    with pytest.raises(LoweringError, match=message) as refusal:
        TARGET.check(replace(options(), **change), MODEL)
    assert expected in refusal.value.expected and refusal.value.found and refusal.value.remedy
    assert refusal.value.code == "GLMC-1006"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 48}, "do not know this head size"),
        ({"head_dim": 576}, "do not know this head size"),
        ({"query_heads": 5}, "multiple of the KV heads"),
    ],
)
def test_models_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LoweringError, match=message) as refusal:
        TARGET.check(options(), replace(MODEL, **change))
    assert refusal.value.place == "tiny"


def test_profiles_and_other_models_are_refused() -> None:
    with pytest.raises(AbiError, match="needs an ABI profile"):
        TARGET.check(options(None), MODEL)
    with pytest.raises(AbiError, match="unknown ABI profile"):
        TARGET.check(options("P-X"), MODEL)
    with pytest.raises(InternalError, match="ModelShape"):
        TARGET.check(options(), object())


@pytest.mark.parametrize("rotary_dim", [0, 7, 34, -2])
def test_rotary_dimensions(rotary_dim: int) -> None:
    limits.check_rotary(32, 32, "here")
    with pytest.raises(LoweringError, match="can't turn this many"):
        limits.check_rotary(rotary_dim, 32, "here")


def test_as_many_experts_as_the_router_knows_are_allowed() -> None:
    limits.check_experts(512, "here")
    with pytest.raises(LoweringError, match="above 512 experts"):
        limits.check_experts(513, "here")


def test_a_scale_off_by_a_rounding_is_still_the_default() -> None:
    limits.check_default_scale(float(torch.tensor(128**-0.5)), 128, "f", "here")
    with pytest.raises(LoweringError, match="f takes no scale") as refusal:
        limits.check_default_scale(0.0884, 128, "f", "here")
    assert "P-A or P-C" in refusal.value.remedy
