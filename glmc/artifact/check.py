"""The plans of a compile are held against what the runtime will load, before they are written."""

from __future__ import annotations

from collections.abc import Mapping

from glmc.errors import InternalError
from glmc_runtime.errors import PlanError
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.kernels import RESERVED
from glmc_runtime.kernels.interpreter import TARGET as OF_TRITON
from glmc_runtime.kernels.interpreter import triton_found
from glmc_runtime.loading.check import check_plan
from glmc_runtime.package.entry_points import KERNELS, entries


def check_plans(plans: Mapping[PhaseKey, PhasePlan], manifest: Manifest) -> None:
    """Raise :class:`InternalError` for a plan that the runtime would refuse, or that the manifest
    does not list.

    Schemas stand with the kernels. Where those are not installed, Triton's or another
    distribution's, a plan that calls them is left to the machine that loads it.
    """
    installed = {*RESERVED, *entries(KERNELS)}
    if not triton_found():
        installed.discard(OF_TRITON)
    listed = {entry.key for entry in manifest.phases}
    if listed != set(plans):
        raise InternalError(
            "the manifest lists other plans than there are",
            expected=", ".join(sorted(map(str, plans))),
            found=", ".join(sorted(map(str, listed))),
        )
    for plan in plans.values():
        if not {call.function.partition(".")[0] for call in plan.calls} <= installed:
            continue
        try:
            check_plan(plan, manifest)
        except PlanError as error:
            raise InternalError(
                f"the compiler made a plan that the runtime refuses: {error.message}",
                place=error.place,
                expected=error.expected,
                found=error.found,
            ) from error
