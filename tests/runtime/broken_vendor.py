"""An emulator with one function replaced, as a wheel that is broken in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from glmc_runtime.kernels import vendor as vendor_module
from glmc_runtime.kernels.vendor import Vendor

# Gets the right function and the arguments of a call; gives what the wrong function returns.
Change = Callable[[Callable[..., Any], dict[str, Any]], object]


def break_function(monkeypatch: pytest.MonkeyPatch, function: str, change: Change) -> None:
    """From now on ``kunlun_ops.<function>`` of every emulator that is loaded is ``change``."""
    find = vendor_module._emulator

    def broken(profile: str | None, ordered: bool) -> Vendor:
        vendor = find(profile, ordered)
        right = getattr(vendor.libraries["kunlun_ops"], function)

        def wrong(**arguments: Any) -> object:
            return change(right, arguments)

        setattr(vendor.libraries["kunlun_ops"], function, wrong)
        return vendor

    monkeypatch.setattr(vendor_module, "_emulator", broken)
