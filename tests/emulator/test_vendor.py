"""The face itself: signatures, the call log, guard switch, installation."""

from __future__ import annotations

import importlib
import inspect
import sys
import types

import pytest
import torch

from glmc_kunlun_emulator import EmulatedVendor, UnmodelledError, VendorCheckError, install, load
from glmc_kunlun_emulator.contract import KERNELS
from glmc_runtime.kernels.vendor_functions import VENDOR_FUNCTIONS
from glmc_runtime.kernels.vendor_functions.row import PROFILES, VendorFunction

EACH = [
    pytest.param(profile, row, id=f"{row.name}-{profile}")
    for row in VENDOR_FUNCTIONS.values()
    for profile in row.variants
]


def test_says_what_it_is(vendor: EmulatedVendor) -> None:
    assert vendor.emulated is True
    assert vendor.version.startswith(f"emulated {vendor.profile}")
    assert vendor.kunlun_ops.emulated is True
    with pytest.raises(UnmodelledError, match="P-D"):
        load("P-D")


@pytest.mark.parametrize(("profile", "row"), EACH)
def test_functions_are_real_functions_of_the_tables_signature(
    profile: str, row: VendorFunction
) -> None:
    function = getattr(load(profile).kunlun_ops, row.name)
    assert isinstance(function, types.FunctionType)
    assert function.__name__ == row.name and function.__doc__
    assert inspect.signature(function) == row.variants[profile].signature
    with pytest.raises(TypeError, match=row.name):
        function(no_such_keyword=1)


def test_a_profile_lacks_what_the_table_does_not_give_it() -> None:
    assert hasattr(load("P-B").kunlun_ops, "paged_attention")
    assert not hasattr(load("P-C").kunlun_ops, "paged_attention")
    for profile in PROFILES:
        names = {row.name for row in VENDOR_FUNCTIONS.values() if profile in row.variants}
        found = vars(load(profile).kunlun_ops)
        assert {name for name, item in found.items() if callable(item)} == names


@pytest.mark.parametrize("row", VENDOR_FUNCTIONS.values(), ids=VENDOR_FUNCTIONS)
def test_kernels_take_the_keywords_of_the_table(row: VendorFunction) -> None:
    """All that have no default, and those with one have none of their own but where a profile
    lacks the keyword."""
    parameters = inspect.signature(KERNELS[row.name].function).parameters
    by_name = {keyword.name: keyword for keyword in row.keywords}
    assert set(parameters) <= set(by_name)
    assert {name for name, keyword in by_name.items() if keyword.required} <= set(parameters)
    for name, parameter in parameters.items():
        if set(by_name[name].profiles) >= set(row.profiles):
            assert parameter.default is inspect.Parameter.empty, name
        else:
            assert parameter.default == by_name[name].default, name


def test_every_kernel_has_a_row() -> None:
    assert set(KERNELS) == set(VENDOR_FUNCTIONS)


@pytest.mark.parametrize(("profile", "row"), EACH)
def test_a_keyword_that_is_not_modelled_keeps_its_default(
    profile: str, row: VendorFunction
) -> None:
    """Whatever the numbers are: what the hardware would do with another value is not public."""
    kernel = KERNELS[row.name]
    function = getattr(load(profile, guard=False).kunlun_ops, row.name)
    given = {name: None for name in row.variants[profile].required}
    for keyword in row.keywords:
        if keyword.name not in kernel.modelled and profile in keyword.profiles:
            with pytest.raises(UnmodelledError, match=keyword.name):
                function(**given, **{keyword.name: "something else"})


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


def test_what_the_table_reads_on_the_host_must_lie_there() -> None:
    function = load("P-B").kunlun_ops.paged_attention
    query, cache = torch.zeros(1, 2, 32), torch.zeros(1, 2, 4, 32)
    table, lengths = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    out, there = torch.empty_like(query), lengths.to("meta")
    function(out, query, cache, cache.clone(), table, lengths, lengths.clone())
    with pytest.raises(VendorCheckError, match="a host tensor") as caught:
        function(out, query, cache, cache.clone(), table, there, lengths)
    assert caught.value.place == "paged_attention(context_lens_cpu=)"
