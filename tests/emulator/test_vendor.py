"""The face itself: namespaces, signatures, the call log, guard switch, installation."""

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
        assert importlib.import_module("xspeedgate_ops") is vendor.xspeedgate_ops
    assert "kunlun_ops" not in sys.modules
    assert "xspeedgate_ops" not in sys.modules


def test_install_serves_the_names_under_torch_ops() -> None:
    before = dict(vars(torch.ops))
    x, weight, out = torch.randn(2, 8), torch.ones(8), torch.empty(2, 8)
    with install("P-A") as vendor:
        torch.ops._C.rmsnorm(x, weight, out)
        q = torch.empty(4)
        torch.ops.xspeedgate_ops.inplace_exponential(q)
        assert vendor.calls == {"_C.rmsnorm": 1, "xspeedgate_ops.inplace_exponential": 1}
        with pytest.raises(AttributeError):
            torch.ops._C.no_such_function(x)
        assert torch.equal(torch.ops.aten.relu(x), x.relu())
    torch.testing.assert_close(out, torch.nn.functional.rms_norm(x, (8,), eps=1e-5))
    assert dict(vars(torch.ops)) == before


def test_install_gives_back_what_it_hid(monkeypatch: pytest.MonkeyPatch) -> None:
    real = types.SimpleNamespace(rmsnorm="the real one")
    monkeypatch.setitem(vars(torch.ops), "_C", real)
    monkeypatch.setitem(sys.modules, "xspeedgate_ops", types.ModuleType("xspeedgate_ops"))
    module = sys.modules["xspeedgate_ops"]
    with pytest.raises(KeyError, match="in between"), install("P-A"):
        with install("P-B") as inner:
            assert torch.ops._C is inner._C
        assert torch.ops._C is not inner._C
        assert torch.ops._C is not real
        raise KeyError("in between")
    assert torch.ops._C is real
    assert sys.modules["xspeedgate_ops"] is module
    assert "kunlun_ops" not in sys.modules
