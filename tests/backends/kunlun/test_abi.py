from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glmc.backends.kunlun import TARGET
from glmc.backends.kunlun.abi import abi_profile
from glmc.errors import AbiError
from glmc.ir.ops import OPS
from glmc_runtime.kernels.vendor_functions import VENDOR_FUNCTIONS
from glmc_runtime.kernels.vendor_functions.row import PROFILES
from tests.backends.kunlun.harness import Bench, Counts, options, tokens_by


def test_the_target_knows_its_profiles_and_ops() -> None:
    assert TARGET.profiles == PROFILES and TARGET.name == "xpu"
    assert {name for name in TARGET.rules if not name.startswith("aten.")} <= set(OPS)
    assert "attention" not in TARGET.rules, "gone before lowering"
    assert "masked_attention" not in TARGET.rules, "the vendor has none that takes a mask"


@pytest.mark.parametrize("name", [None, "", "P-D", "p-a"])
def test_an_unknown_profile_is_refused_with_the_known_ones(name: str | None) -> None:
    with pytest.raises(AbiError) as refusal:
        abi_profile(name)
    assert refusal.value.code == "GLMC-1007"
    assert all(profile in refusal.value.expected for profile in PROFILES) and refusal.value.remedy


def test_a_function_that_a_profile_lacks_is_refused_with_those_that_have_it() -> None:
    with pytest.raises(AbiError, match="P-C is not known to have") as refusal:
        abi_profile("P-C").variant("paged_attention")
    assert "P-A, P-B" in refusal.value.remedy
    with pytest.raises(AbiError, match="no_such_function"):
        abi_profile("P-A").function("no_such_function")


@pytest.mark.parametrize(
    ("profile", "function", "keyword"),
    [
        ("P-B", "prefill_attention", "alpha"),
        ("P-B", "speculative_attention", "max_window_size"),
        ("P-C", "speculative_attention", "max_window_size"),
        ("P-B", "speculative_attention", "sink"),
        ("P-A", "speculative_attention", "qlod_cpu"),
        ("P-C", "moe_sigmoid_group_topk_norm", "block_static"),
        ("P-A", "rmsnorm", "epsilon"),
    ],
)
def test_a_keyword_that_a_profile_lacks_is_refused(
    profile: str, function: str, keyword: str
) -> None:
    known = abi_profile(profile)
    assert not known.has_keyword(function, keyword)
    given = dict.fromkeys((*known.variant(function).required, keyword))
    with pytest.raises(AbiError, match=f"no keyword '{keyword}' in profile {profile}"):
        known.resolve(function, given)


def test_a_missing_keyword_is_refused() -> None:
    with pytest.raises(AbiError, match="needs 'output'"):
        abi_profile("P-A").resolve("rmsnorm", {"x": None, "weight": None})


def test_one_name_of_the_histogram_becomes_the_profiles_own() -> None:
    for profile, spelling in (("P-A", "block_static"), ("P-C", "block_statistic")):
        known = abi_profile(profile)
        variant = known.variant("moe_sigmoid_group_topk_norm")
        assert variant.spelled("block_statistic") == spelling and spelling in variant.names


def test_rules_refuse_an_unknown_profile() -> None:
    at = Bench(options("P-Z"), Counts(1, 1), Counts(1, 1))
    x = at.tensor("x", torch.zeros(1, 16), tokens_by(16))
    with pytest.raises(AbiError, match="unknown ABI profile"):
        at.lower("swiglu", {"x": x}, [(tokens_by(8), torch.float32)])


def test_the_documentation_names_every_function_and_op() -> None:
    text = (Path(__file__).parents[3] / "docs" / "kunlun.md").read_text()
    for name in (*VENDOR_FUNCTIONS, *TARGET.rules, *PROFILES):
        assert f"`{name}`" in text or f"kunlun_ops.{name}`" in text or f"| {name} " in text, name
