"""Plans of two compiles against each other, phase by phase."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from glmc.observe.diff.record import Change, PlanDiff
from glmc.observe.diff.rows import Blocks, Layer, Row, common_layers, folded, row_changes
from glmc.observe.history.ids import place_of
from glmc.observe.history.record import CallHistory, History, PlanHistory

KERNEL = "kernel"


def plan_diffs(a: History, b: History) -> tuple[PlanDiff, ...]:
    """A row for each phase of either side."""
    plans = [{plan.phase: plan for plan in side.plans} for side in (a, b)]
    return tuple(
        _plan_diff(name, (a, plans[0].get(name)), (b, plans[1].get(name)))
        for name in dict.fromkeys((*plans[0], *plans[1]))
    )


_Own = tuple[History, PlanHistory | None]


def _plan_diff(phase: str, a: _Own, b: _Own) -> PlanDiff:
    kernels = [_kernels(plan) for _, plan in (a, b)]
    # Of a plan that is not there nothing is said but that.
    layers = common_layers(a[0], b[0]) if a[1] and b[1] else ()
    return PlanDiff(
        phase,
        tuple(_facts(phase, a[1], b[1])),
        tuple(
            Change(KERNEL, name, str(kernels[0][name]), str(kernels[1][name]))
            for name in sorted({*kernels[0], *kernels[1]})
            if kernels[0][name] != kernels[1][name]
        ),
        folded(row_changes(_calls(a[1]), _calls(b[1]), layers)),
        folded(row_changes(_buffers(*a), _buffers(*b), layers, ordered=False)),
    )


def _facts(phase: str, a: PlanHistory | None, b: PlanHistory | None) -> Iterator[Change]:
    values = [{} if plan is None else _sizes(plan) for plan in (a, b)]
    for name in dict.fromkeys((*values[0], *values[1])):
        before, after = values[0].get(name), values[1].get(name)
        if before != after:
            yield Change(phase, name, before, after)


def _sizes(plan: PlanHistory) -> dict[str, str]:
    return {
        "calls": str(_kernels(plan).total()),
        "buffers": str(len(plan.buffers)),
        "segments": str(len(plan.segments)),
        "captured segments": str(sum(captured for _, _, captured in plan.segments)),
        "largest step": f"{plan.tokens} tokens, {plan.sequences} sequences",
        "arena": plan.arena,
        "arena bytes": str(plan.arena_bytes),
    }


def _kernels(plan: PlanHistory | None) -> Counter[str]:
    """Calls of each kernel in all layers."""
    counts: Counter[str] = Counter()
    for block in plan.blocks if plan is not None else ():
        for call in block.calls:
            counts[call.function] += 1 + len(block.like)
    return counts


def _calls(plan: PlanHistory | None) -> Blocks:
    blocks: dict[Layer, tuple[Row, ...]] = {}
    for block in plan.blocks if plan is not None else ():
        rows = tuple(map(_row, block.calls))
        blocks.update(dict.fromkeys((block.layer, *block.like), rows))
    return blocks


def _row(call: CallHistory) -> Row:
    writes = f"  writes {', '.join(call.writes)}" if call.writes else ""
    host = "  host" if call.host else ""
    return Row(call.node, call.function, f"{call.function}({call.arguments}){writes}{host}")


def _buffers(history: History, plan: PlanHistory | None) -> Blocks:
    """Shape and dtype of each buffer. Places in the arena follow from all of them and from the
    order of the calls, so they are not compared one by one."""
    rows: dict[Layer, list[Row]] = defaultdict(list)
    for buffer in plan.buffers if plan is not None else ():
        place = place_of(history, buffer.name)
        rows[place.layer].append(Row(place.id, "", f"{buffer.shape} {buffer.dtype}"))
    return {layer: tuple(some) for layer, some in rows.items()}
