"""What a pass did to a program, and what the passes of a compile made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glmc.ir.match import NearMiss
from glmc.ir.program import Program
from glmc.passes.base import Match
from glmc_runtime.format.phases import PhaseKey


@dataclass(frozen=True)
class PassRecord:
    """What one pass did to one program. ``seconds`` is wall time; ``budget`` is that of an
    approximate pass; ``evaluations`` are the instances that each kind of region was run as."""

    name: str
    numerics: str
    seconds: float
    nodes_before: int
    nodes_after: int
    matches: tuple[Match, ...]
    near_misses: tuple[NearMiss, ...]
    detail: Mapping[str, Any] = field(default_factory=dict)
    budget: float = 0.0
    evaluations: tuple[str, ...] = ()
    evaluation_seconds: float = 0.0


@dataclass(frozen=True)
class Phases:
    """The programs of all phases, and the records of the passes that made them."""

    programs: Mapping[PhaseKey, Program]
    records: tuple[PassRecord, ...]
