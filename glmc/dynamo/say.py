"""What the backend logs of each graph: why it is compiled again, what was fused, where it ends.

One logger for each artifact of ``GLMC_LOGS`` (docs/logging.md). Warnings that a program should see
come once in a process, however many graphs it compiles.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

from torch._dynamo.utils import get_metrics_context
from torch._guards import CompileContext

from glmc.dynamo.compile.lower import TracedPlan
from glmc.pipeline.records import PassRecord
from glmc_runtime.command.units import seconds_text
from glmc_runtime.printable import printable_lines

_RECOMPILES = logging.getLogger("glmc.recompiles")
_FUSIONS = logging.getLogger("glmc.fusions")
_BREAKS = logging.getLogger("glmc.graph_breaks")


@cache
def warn_once(text: str) -> None:
    warnings.warn(printable_lines(text), stacklevel=3)


def graph_name() -> str:
    """The graph that Dynamo compiles now, as its own logs call it: ``0/1`` is the first recompile
    of the first function."""
    current = CompileContext.current_compile_id()
    return "graph" if current is None else f"graph {current}"


def log_recompile() -> None:
    """Log that Dynamo compiles this code again, with the guard that failed."""
    reason = recompile_reason()
    if reason is not None:
        _RECOMPILES.info("%s is compiled again: %s", graph_name(), reason)


def recompile_reason() -> str | None:
    """The first guard that failed, None for code that is compiled for the first time. Dynamo shows
    it to its own metrics alone."""
    reason = getattr(get_metrics_context(), "_metrics", {}).get("recompile_reason")
    return None if reason is None else " ".join(str(reason).split())


def log_graph(
    target: str,
    records: Sequence[PassRecord],
    plan: TracedPlan,
    seconds: Mapping[str, float],
    broken: str | None,
) -> None:
    """Log what became of one graph, and why it ends before the program does."""
    name = graph_name()
    fused = {record.name: len(record.matches) for record in records if record.matches}
    plain = Counter(call.origin for call in plan.plain)
    _FUSIONS.info(
        "%s for %s: %s; %d calls, %d of them ATen; %s",
        name,
        target,
        _counts(fused) or "nothing fused",
        len(plan.calls),
        plain.total(),
        seconds_text(sum(seconds.values())),
    )
    if plain:
        _FUSIONS.debug("%s, ATen: %s", name, _counts(plain))
    for miss in (*(miss for record in records for miss in record.near_misses), *plan.left):
        where = f"{miss.node}: {miss.condition} {miss.source}".rstrip()
        _FUSIONS.debug("%s, not fused: %s at %s", name, miss.pass_name, where)
    if broken is not None:
        _BREAKS.info("%s ends before the program does: %s", name, broken)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())
