"""``explain(model, *inputs)``: what backend "kunlun" makes of a model, graph by graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from rich.table import Table

from glmc.console import PlainConsole
from glmc.dynamo.backend import LISTENERS, CompiledGraph
from glmc.dynamo.compile.checks import mocked_compile
from glmc.errors import UsageError
from glmc.ir.match import NearMiss
from glmc.passes.canonical import NAME as CANONICAL
from glmc.passes.clean import NAME as CLEAN


@dataclass(frozen=True)
class GraphExplanation:
    """One graph: ``fusions`` by pass, ``misses`` nearest first, ``plain`` ATen ops that no kernel
    of the target took, with their counts; ``broken`` says why the graph ends where it ends."""

    target: str
    emulated: bool
    calls: int
    fusions: Mapping[str, int]
    misses: tuple[NearMiss, ...]
    plain: Mapping[str, int]
    broken: str | None
    arena_bytes: int
    copied_bytes: int
    seconds: float


@dataclass(frozen=True)
class Explanation:
    """Everything that a call of the compiled model made; printed, it is a report."""

    graphs: tuple[GraphExplanation, ...]

    @property
    def breaks(self) -> tuple[str, ...]:
        return tuple(graph.broken for graph in self.graphs if graph.broken)

    def __str__(self) -> str:
        text = StringIO()
        console = PlainConsole(file=text, width=100, highlight=False)
        table = Table(
            title=f"{_many(len(self.graphs), 'graph')}, {_many(len(self.breaks), 'break')}"
        )
        for title in ("graph", "target", "calls", "fusions", "ATen, one by one", "MiB added"):
            table.add_column(title)
        for number, graph in enumerate(self.graphs):
            table.add_row(
                str(number),
                graph.target + (" (emulated)" if graph.emulated else ""),
                str(graph.calls),
                _counts(graph.fusions),
                _counts(graph.plain),
                f"{(graph.arena_bytes + graph.copied_bytes) / (1 << 20):.1f}",
            )
        console.print(table)
        console.print("MiB added: temporaries, and weights put together beside the model's own")
        for number, graph in enumerate(self.graphs):
            if graph.broken:
                console.print(f"break after graph {number}: {graph.broken}")
            for miss in graph.misses:
                console.print(
                    f"graph {number}, not fused: {miss.pass_name} at {miss.node}: "
                    f"{miss.condition} {miss.source}".rstrip(),
                )
        return text.getvalue()


def explain(
    model: torch.nn.Module, *inputs: Any, options: Mapping[str, Any] | None = None, **keywords: Any
) -> Explanation:
    """Compile ``model`` for these inputs, call it once and say what came of it.

    The call is a real one: caches among the inputs are written. Raises UsageError where
    ``torch.compile`` is replaced by a mock.
    """
    mocked = mocked_compile()
    if mocked is not None:
        raise UsageError(
            "torch.compile does nothing on this machine",
            found=mocked,
            remedy="set these variables in the shell that starts Python",
        )
    graphs: list[CompiledGraph] = []
    token = LISTENERS.set((*LISTENERS.get(), graphs.append))
    try:
        torch._dynamo.reset()
        with torch.no_grad():
            compiled: Any = torch.compile(model, backend="kunlun", options=dict(options or {}))
            compiled(*inputs, **keywords)
    finally:
        LISTENERS.reset(token)
    return Explanation(tuple(_explained(graph) for graph in graphs))


def _explained(graph: CompiledGraph) -> GraphExplanation:
    fusions = {
        record.name: len(record.matches)
        for record in graph.records
        if record.matches and record.name not in (CANONICAL, CLEAN)
    }
    misses = [miss for record in graph.records for miss in record.near_misses]
    misses += graph.plan.left
    return GraphExplanation(
        target=graph.target,
        emulated=graph.emulated,
        calls=len(graph.plan.calls),
        fusions=fusions,
        misses=tuple(sorted(misses, key=lambda miss: -miss.held)),
        plain=Counter(call.origin for call in graph.plan.plain),
        broken=graph.broken,
        arena_bytes=graph.replay.arena_bytes,
        copied_bytes=graph.replay.copied_bytes,
        seconds=sum(graph.seconds.values()),
    )


def _many(number: int, thing: str) -> str:
    return f"{number} {thing}" + "s" * (number != 1)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items()) or "none"
