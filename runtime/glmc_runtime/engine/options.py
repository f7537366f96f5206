"""How an artifact is loaded, whoever runs it."""

from __future__ import annotations

from dataclasses import dataclass

from glmc_runtime.package.constants import GUARD_STEPS


@dataclass(frozen=True)
class LoadOptions:
    """Options of :func:`glmc_runtime.load`, as plain data: ranks in other processes get them."""

    emulate: bool | None = None
    device: str | None = None
    kv_blocks: int | None = None
    kv_memory_bytes: int | None = None
    timing: bool = False
    guard_steps: int = GUARD_STEPS
    profile_ranges: bool = False
    backend: str | None = None
    checkpoint: str | None = None
    prefill_graphs: bool = False
