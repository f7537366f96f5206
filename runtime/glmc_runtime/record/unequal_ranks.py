"""What a record says of ranks that differ where they should not, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glmc_runtime.command.output import counted


def unequal_ranks(facts: Mapping[str, Any], label: str) -> str | None:
    """Of a record by the ``facts`` of all of it; None where ranks are equal, or there is one."""
    count, apart = facts.get("ranks_unequal"), facts.get("ranks_apart")
    if not isinstance(count, int) or not isinstance(apart, (int, float)) or not count:
        return None
    return (
        f"{label}: ranks differ in {counted(count, 'value')} that they should have alike, by up to "
        f"{apart:.3g}; the first is {facts.get('ranks_first')}"
    )
