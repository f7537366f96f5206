"""What plans lack is refused by name; what asks for nothing is not."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.server_args import ServerArgs

from glmc_engines.core.errors import NoArtifactError, UnsupportedError
from glmc_engines.sglang.limits import LIMITS, Limit, refuse_manifest, refuse_options
from glmc_runtime.format.manifest import Ranks

_FIELDS = {field: None for field in ServerArgs.__struct_fields__}


def options(**changed: Any) -> Callable[[str], Any]:
    """Server arguments as of a plain start, but for those that are given."""
    plain = ServerArgs(model_path="dummy")
    return lambda name: changed[name] if name in changed else getattr(plain, name, None)


def test_a_plain_start_asks_for_nothing_that_plans_lack() -> None:
    refuse_options(options(), torch.float32)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.option)
def test_each_is_refused_by_name(limit: Limit) -> None:
    value = 2 if isinstance(getattr(ServerArgs, limit.option, None), int) else "something"
    with pytest.raises(UnsupportedError) as caught:
        refuse_options(options(**{limit.option: value}), torch.float32)
    assert limit.flag in str(caught.value)
    assert limit.feature in str(caught.value)


@pytest.mark.parametrize("value", ["bf16", "bfloat16"])
def test_a_kv_cache_of_the_model_s_own_dtype_is_taken(value: str) -> None:
    refuse_options(options(kv_cache_dtype=value), torch.bfloat16)
    with pytest.raises(UnsupportedError, match="--kv-cache-dtype"):
        refuse_options(options(kv_cache_dtype=value), torch.float16)


@pytest.mark.parametrize("value", ["fp8_e4m3", "fp8_e5m2", "mxfp8", "nvfp4"])
def test_a_kv_cache_of_fewer_bits_is_refused(value: str) -> None:
    with pytest.raises(UnsupportedError, match="--kv-cache-dtype"):
        refuse_options(options(kv_cache_dtype=value), torch.bfloat16)


def test_options_are_those_of_this_release() -> None:
    gone = {"torchao_config"}  # of older releases
    assert {limit.option for limit in LIMITS} - set(_FIELDS) <= gone


def manifest(**changed: Any) -> Any:
    values = {"model": SimpleNamespace(name="tiny"), "ranks": Ranks(), "deterministic": None}
    return SimpleNamespace(**{**values, **changed})


def test_experts_that_are_placed_in_another_way_are_refused() -> None:
    whole = manifest(ranks=Ranks(2, expert_parallel=True))
    refuse_manifest(whole, options(ep_size=2))
    refuse_manifest(manifest(), options())
    with pytest.raises(NoArtifactError, match="experts"):
        refuse_manifest(whole, options())
    with pytest.raises(NoArtifactError, match="--ep-size 2"):
        refuse_manifest(manifest(ranks=Ranks(2)), options(ep_size=2))


def test_determinism_needs_an_artifact_that_has_it() -> None:
    asked = options(enable_deterministic_inference=True)
    with pytest.raises(UnsupportedError, match="depend on the batch"):
        refuse_manifest(manifest(), asked)
    refuse_manifest(manifest(deterministic="batch"), asked)
