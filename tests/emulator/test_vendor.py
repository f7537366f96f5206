"""The face itself: signatures, the call log, guard switch, installation."""

from __future__ import annotations

import importlib
import inspect
import sys
import types

import pytest
import torch

from glmc_kunlun_emulator import EmulatedVendor, UnmodelledError, VendorCheckError, install, load

CHAIN = (
    "rmsnorm", "add_rmsnorm", "swiglu", "rotary_embedding", "reshape_and_cache_flash",
    "prefill_attention", "speculative_attention", "paged_attention", "matmul",
    "moe_sigmoid_group_topk_norm", "gen_block_statistic", "moe_pre_sorted", "moe_fc", "moe_post",
)  # fmt: skip


def test_says_what_it_is(vendor: EmulatedVendor) -> None:
    assert vendor.emulated is True
    assert vendor.version.startswith(f"emulated {vendor.profile}")
    assert vendor.kunlun_ops.emulated is True
    with pytest.raises(UnmodelledError, match="P-D"):
        load("P-D")


@pytest.mark.parametrize("name", CHAIN)
def test_functions_are_real_functions(vendor: EmulatedVendor, name: str) -> None:
    function = getattr(vendor.kunlun_ops, name)
    assert isinstance(function, types.FunctionType)
    assert function.__name__ == name
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert inspect.Parameter.VAR_POSITIONAL not in kinds
    with pytest.raises(TypeError, match=name):
        function(no_such_keyword=1)


def test_calls_are_counted_apart() -> None:
    first, second = load("P-A"), load("P-A")
    x, weight = torch.randn(2, 8), torch.ones(8)
    for _ in range(3):
        first.kunlun_ops.rmsnorm(x, weight, torch.empty_like(x))
    assert first.calls == {"rmsnorm": 3}
    assert not second.calls
    first.calls.clear()
    assert not first.calls


def test_errors_carry_their_parts(vendor: EmulatedVendor) -> None:
    x = torch.randn(2, 16)[:, ::2]
    with pytest.raises(VendorCheckError) as caught:
        vendor.kunlun_ops.rmsnorm(x, torch.ones(8), torch.empty(2, 8))
    assert caught.value.code == "KLE-001"
    assert caught.value.place == "rmsnorm(x=)"
    assert "strides (16, 2)" in caught.value.found
    assert "emulated" in str(caught.value)


def test_guard_can_be_switched_off(vendor: EmulatedVendor) -> None:
    x, weight = torch.randn(2, 8), torch.ones(8)
    want = torch.empty_like(x)
    vendor.kunlun_ops.rmsnorm(x, weight, want)
    vendor.guard = False
    vendor.kunlun_ops.rmsnorm(x, weight, x)  # an alias nobody documents
    torch.testing.assert_close(x, want)


def test_host_lengths_must_be_on_the_host(vendor: EmulatedVendor) -> None:
    x = torch.empty(2, 8, device="meta")
    with pytest.raises(ValueError, match="device meta"):
        vendor.kunlun_ops.rmsnorm(torch.randn(2, 8), torch.ones(8), x)


def test_install_is_temporary() -> None:
    assert "kunlun_ops" not in sys.modules
    with install("P-C") as vendor:
        assert importlib.import_module("kunlun_ops") is vendor.kunlun_ops
    assert "kunlun_ops" not in sys.modules


def test_install_gives_back_what_it_hid(monkeypatch: pytest.MonkeyPatch) -> None:
    real = types.ModuleType("kunlun_ops")
    monkeypatch.setitem(sys.modules, "kunlun_ops", real)
    with pytest.raises(KeyError, match="in between"), install("P-A") as outer:
        with install("P-B") as inner:
            assert importlib.import_module("kunlun_ops") is inner.kunlun_ops
        assert importlib.import_module("kunlun_ops") is outer.kunlun_ops
        raise KeyError("in between")
    assert sys.modules["kunlun_ops"] is real
