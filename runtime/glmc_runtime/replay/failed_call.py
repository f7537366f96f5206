"""The error of a kernel, with the call of the plan that it belongs to."""

from __future__ import annotations

from glmc_runtime.errors import GlmcError, PlanError, VendorError
from glmc_runtime.format.plan import Call, place_of
from glmc_runtime.kernels import is_vendor

_NO_CALL = "a captured device graph, several calls that run as one, or what fills their inputs"


def explained(call: Call | None, error: BaseException) -> GlmcError:
    """``call`` is None where what failed is no single one."""
    if call is None:
        return PlanError(f"a kernel failed: {error}", place=_NO_CALL)
    if is_vendor(call.function):
        return VendorError(f"a vendor call failed: {error}", place=place_of(call))
    return PlanError(f"a kernel failed: {error}", place=place_of(call))
