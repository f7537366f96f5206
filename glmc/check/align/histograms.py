"""Counts of experts that a vendor's router leaves beside its ids, for the calls that read both.

They are no value of a program. Where other experts are put in place of those that the router has
chosen, they are counted anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from glmc_runtime.format.plan import Call
from glmc_runtime.kernels.vendor import Vendor
from glmc_runtime.kernels.vendor_functions import vendor_function

_COUNTS = "block_statistic"
_COUNTING = "kunlun_ops.gen_block_statistic"


class Histograms:
    """Those of one replay on one rank; no vendor has none."""

    def __init__(self, vendor: Vendor | None, profile: str | None) -> None:
        self._vendor, self._profile = vendor, profile
        self._counted: list[tuple[Tensor, Tensor]] = []

    def note(self, call: Call, arguments: Mapping[str, Any]) -> None:
        """A call that has run, with what it was bound to."""
        row = vendor_function(call.function)
        if row is None or self._profile is None:
            return
        variant = row.variants[self._profile]
        for keyword in variant.keywords:
            passed = keyword.passed
            if passed is None or passed.leaves != _COUNTS or passed.of is None:
                continue
            counts = arguments.get(variant.spelled(keyword.name))
            if counts is not None:
                self._counted.append((arguments[variant.spelled(passed.of)], counts))

    def renew(self, ids: Tensor) -> None:
        """Count the ids again that are in the memory of ``ids``."""
        vendor = self._vendor
        for counted, counts in self._counted:
            if counted.data_ptr() == ids.data_ptr() and vendor is not None:
                counts.zero_()
                vendor.bind(_COUNTING, {"topk_ids": counted, _COUNTS: counts})()
