"""Whose error it is, and where."""

from __future__ import annotations

import pytest

from glmc_runtime.errors import PlanError, VendorError
from glmc_runtime.format.plan import Call, place_of
from glmc_runtime.replay.failed_call import explained

ERROR = IndexError("out of range")


@pytest.mark.parametrize(
    ("function", "kind"), [("cpu.linear", PlanError), ("kunlun_ops.rmsnorm", VendorError)]
)
def test_a_call_is_named(function: str, kind: type[Exception]) -> None:
    call = Call(function, {}, (), False, "add_7", "glmc.add", 0, "model.layers.0")
    error = explained(call, ERROR)
    assert type(error) is kind
    assert error.place == place_of(call) and "out of range" in str(error)


def test_several_calls_are_no_single_one() -> None:
    error = explained(None, ERROR)
    assert type(error) is PlanError and "several calls that run as one" in str(error)
