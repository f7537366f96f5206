"""Kernels of CUDA over caches of other strides: bit for bit what they do over contiguous ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cuda.paged_cache import cache_constants
from tests.runtime.kernels.cache_layouts import LAYOUTS
from tests.runtime.kernels.cuda import test_qkv_rope_cache
from tests.runtime.kernels.cuda.attention import test_decode, test_prefill, test_rope_decode
from tests.runtime.kernels.cuda.attention.test_decode import cut
from tests.runtime.kernels.cuda.paged import DEVICE
from tests.support.thinned import thinned

EACH_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)
# Heads before tokens and after, rows and blocks that lie apart: the others have fewer of these.
_HARD = ("by_block_heads_first", "side_by_side", "padded_blocks")
HARD_LAYOUTS = pytest.mark.parametrize("layout", thinned(LAYOUTS, {*LAYOUTS} - {*_HARD}))
_NAMES = ("key_cache", "value_cache")


def same(kernel: str, arguments: dict[str, Any], layout: str, *results: str) -> None:
    """Run ``kernel`` over contiguous caches and over copies in ``layout``: they write the same."""
    blocks, heads, size, dim = arguments["key_cache"].shape
    caches = LAYOUTS[layout](blocks, size, heads, dim, arguments["key_cache"].dtype, DEVICE)
    moved = {
        name: value.clone() if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }
    for name, cache in zip(_NAMES, caches, strict=True):
        moved[name] = cache.transpose(1, 2)
        moved[name].copy_(arguments[name])
    for each in (arguments, moved):
        find_binder(f"cuda.{kernel}")(each)()
    for name in results:
        assert torch.equal(moved[name].nan_to_num(7.0), arguments[name].nan_to_num(7.0)), name
        assert name in _NAMES or moved[name].isfinite().all()


@EACH_LAYOUT
def test_keys_and_values_are_written_to_their_slots(layout: str) -> None:
    arguments = test_qkv_rope_cache.case(5, with_norms=True)
    before = arguments["key_cache"].clone()
    same("qkv_rope_cache", arguments, layout, "query", *_NAMES)
    assert not torch.equal(arguments["key_cache"].nan_to_num(), before.nan_to_num())


@HARD_LAYOUTS
def test_decode_attention(layout: str) -> None:
    arguments = test_decode.case([37, 5], q_heads=6, kv_heads=2) | {"configuration": cut(2)}
    same("decode_attention", arguments, layout, "out")


@HARD_LAYOUTS
def test_rope_decode_attention(layout: str) -> None:
    arguments = test_rope_decode.case([37, 5], q_heads=6, kv_heads=2) | {"configuration": cut(2)}
    same("rope_decode_attention", arguments, layout, "out", *_NAMES)


@HARD_LAYOUTS
def test_prefill_attention(layout: str) -> None:
    arguments = test_prefill.case([(5, 9), (3, 0)]) | {"configuration": test_prefill.SMALL}
    same("prefill_attention", arguments, layout, "out")


@EACH_LAYOUT
def test_contexts_are_gathered(layout: str) -> None:
    """For the libraries, which take keys and values one after the other."""
    arguments = test_prefill.case([(3, 4), (2, 0)])
    caches = LAYOUTS[layout](*arguments["key_cache"].transpose(1, 2).shape, torch.float32, DEVICE)
    moved = dict(arguments)
    for name, cache in zip(_NAMES, caches, strict=True):
        moved[name] = cache.transpose(1, 2)
        moved[name].copy_(arguments[name])
    both = [
        test_prefill.module._gather(
            test_prefill.module._Call.of(each, test_prefill.SMALL), test_prefill.step_of(each)
        )
        for each in (arguments, moved)
    ]
    for ours, theirs in zip(*both, strict=True):
        assert torch.equal(ours, theirs) and ours.isfinite().all()


def test_tokens_that_are_too_far_apart_are_refused() -> None:
    far = torch.empty_strided((4, 1, 16, 8), (8, 8, 1 << 27, 1), device="meta")
    with pytest.raises(PlanError, match="too far apart"):
        cache_constants({"key_cache": far, "value_cache": far}, 8, torch.float32)


def test_heads_of_another_size_are_refused() -> None:
    cache = torch.zeros(4, 1, 16, 8)
    with pytest.raises(PlanError, match="another size"):
        cache_constants({"key_cache": cache, "value_cache": cache}, 16, torch.float32)
