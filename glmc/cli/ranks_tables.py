"""What ``glmc inspect`` shows of an artifact of several ranks: what each has, what they tell each
other in a step of every bucket, and how."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table

from glmc.artifact.reader import ArtifactContents
from glmc_runtime.command.units import bytes_text
from glmc_runtime.format.collectives import ONE_HOST, AlgorithmTable, GroupKey, choices
from glmc_runtime.format.manifest import PhaseEntry
from glmc_runtime.format.messages import FAMILY, message_of
from glmc_runtime.format.plan import PhasePlan

# Before and after the number of a layer, in the name of a weight.
_LAYER = re.compile(r"(.*\blayers\.)?(?(1)(\d{1,6}))(.*)")
ALL_REDUCE = f"{FAMILY}.all_reduce"


def ranks_line(contents: ArtifactContents) -> str:
    """How many ranks, how experts are dealt, and the collectives of a step by phase."""
    ranks = contents.manifest.ranks
    called: dict[str, Counter[str]] = {}
    for row in ranks.collectives:
        name = row.function.partition(".")[2]
        called.setdefault(row.phase, Counter())[name] += row.calls
    steps = (
        f"{phase} {' and '.join(f'{count} {name}' for name, count in counts.items())}"
        for phase, counts in called.items()
    )
    experts = ", experts whole" if ranks.expert_parallel else ""
    return f"{ranks.count}{experts}; collectives of a step: {'; '.join(steps) or 'none'}"


def ranks_parts(contents: ArtifactContents) -> Iterator[RenderableType]:
    """The all-reduces of each bucket with what the table chooses, where it comes from, and what
    was filled up with zeros."""
    table = contents.collectives
    if table is None:
        return
    shown = Table(title="What the ranks add up in a step, by bucket")
    for column in ("phase", "bucket", "message", "calls", "algorithm"):
        justify = "left" if column in ("phase", "algorithm") else "right"
        shown.add_column(column, justify=justify)  # type: ignore[arg-type]
    origins: dict[str, None] = {}
    for key, plan in contents.plans.items():
        for row, origin in _rows(plan, contents.manifest.phase(key), table, contents):
            shown.add_row(*row)
            origins[origin] = None
    if not shown.row_count:
        return
    yield shown
    for origin in origins:
        yield f"algorithms {origin}"
    yield from _filled(contents)


def _filled(contents: ArtifactContents) -> Iterator[str]:
    """What was filled up with zeros, the same of several layers in one line."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in contents.report.get("passes", ()):
        for weight, text in row.get("detail", {}).get("padded", {}).items():
            before, layer, after = _LAYER.match(weight).groups()  # type: ignore[union-attr]
            name = weight if layer is None else f"{before}*{after}"
            found.setdefault((name, text), []).extend([] if layer is None else [int(layer)])
    for (name, text), layers in found.items():
        last = max(layers, default=0)
        where = f", layers {min(layers)} to {last}" if len(layers) > 1 else ""
        where = f", layer {last}" if len(layers) == 1 else where
        yield f"filled up with zeros: {name}{where}: {text}"


def _rows(
    plan: PhasePlan, entry: PhaseEntry, table: AlgorithmTable, contents: ArtifactContents
) -> Iterator[tuple[tuple[str, ...], str]]:
    for bucket in entry.buckets:
        sizes = plan.phase.largest(bucket, entry.largest)
        found: Counter[tuple[str, int]] = Counter()
        for call in plan.calls:
            if call.function.startswith(ALL_REDUCE):
                dtype, message = message_of(call, plan.buffers)
                found[dtype, message.evaluate(sizes)] += 1
        for (dtype, size), calls in sorted(found.items()):
            key = GroupKey(contents.manifest.ranks.count, ONE_HOST, dtype)
            (choice,) = choices(table, key, [size])
            row = (str(entry.phase), str(bucket), bytes_text(size), str(calls), str(choice))
            yield row, str(choice.origin)
