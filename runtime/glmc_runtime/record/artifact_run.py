"""How an artifact runs while it is recorded."""

from __future__ import annotations

from dataclasses import dataclass, field

from glmc_runtime.engine.options import LoadOptions

TAP_MEMORY = 1 << 30


@dataclass(frozen=True)
class ArtifactRun:
    """``graph``: steps are replayed with taps in them, of ``tap_memory`` bytes at most; else they
    run call by call, without device graphs. Of ``load`` the size of the KV cache and the guard
    steps are the recorder's own. ``verify_hashes``: as for loading."""

    graph: bool = True
    tap_memory: int = TAP_MEMORY
    load: LoadOptions = field(default_factory=LoadOptions)
    verify_hashes: bool = True
