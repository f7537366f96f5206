"""Events that a host launched, as torch.profiler and Nsight Systems have them, in one table.

Categories are those of torch.profiler. A kernel is joined to its launch by ``correlation`` and to
the op around the launch by ``External id``. The kernels of a device graph share the correlation of
one launch and have no op. Modules are ranges around the launch, of a class or named after a module.
Without a device, operations of the host are the work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from glmc.observe.timeline.kernel_names import COLLECTIVE, OTHER
from glmc.observe.timeline.op_class import class_of
from glmc.observe.timeline.readers.annotations import is_profiler_step, step_kind
from glmc.observe.timeline.readers.chrome import ChromeEvent, ChromeTrace
from glmc.observe.timeline.readers.nesting import enclosing, leaves
from glmc.observe.timeline.steps import StepRange, steps_of, with_steps
from glmc.observe.timeline.table import (
    DEVICE_LANE,
    HOST_LANE,
    Facts,
    Kind,
    StepKind,
    Timeline,
    TimelineEvent,
)

KERNEL, MEMCPY, MEMSET = "kernel", "gpu_memcpy", "gpu_memset"
RANGE, DEVICE_RANGE = "user_annotation", "gpu_user_annotation"
OP, RUNTIME = "cpu_op", "cuda_runtime"
FUNCTION = "python_function"
_WORK = {KERNEL: Kind.KERNEL, MEMCPY: Kind.COPY, MEMSET: Kind.COPY}
_LAUNCH = ("_runtime", "_driver")
_CLASS = "nn.Module: "
_MODULE = re.compile(
    r"^[A-Za-z_]\w*(\.\w+)*\.layers\.\d+(\.\w+)*$"  # model.layers.3.self_attn
    r"|^[a-z_]\w*(\.\w+)* [A-Z]\w*$"  # model.norm Glm4MoeRMSNorm: path and class
)
_NAME_STEPS = (
    "for tables of one step of a model, record with schedule= of torch.profiler and step(), or "
    "with ranges that are named as docs/timeline.md#steps says"
)
KNOWN = frozenset({*_WORK, RANGE, DEVICE_RANGE, OP})


def launched_timeline(label: str, trace: ChromeTrace, facts: Facts) -> Timeline:
    """The trace as a table; layers are not known yet."""
    launches = _Launches.of(trace)
    work = [_work(event, launches) for event in trace.events if event.category in _WORK]
    remarks = [f"{trace.left_out} events without a time left out"] if trace.left_out else []
    if not work:
        work = list(_operations(trace))
        remarks.append("no device in the file: operations of the host are its work")
    ranges = _step_ranges(trace)
    steps = steps_of(ranges, work)
    events = tuple(sorted([*work, *_host(trace)], key=lambda event: event.start_us))
    facts = replace(facts, remarks=(*facts.remarks, *remarks))
    made = with_steps(Timeline(label, facts, steps, events))
    if ranges:
        return made
    return replace(made, facts=replace(made.facts, remarks=(*made.facts.remarks, _NAME_STEPS)))


@dataclass(frozen=True)
class _Launches:
    """Calls of the host that started something, by correlation; ops by their id; the module that
    each of both began in."""

    calls: Mapping[str, ChromeEvent]
    ops: Mapping[str, ChromeEvent]
    modules: Mapping[int, str]

    @classmethod
    def of(cls, trace: ChromeTrace) -> _Launches:
        calls, ops = {}, {}
        for event in trace.events:
            if event.category.endswith(_LAUNCH) and "correlation" in event.args:
                calls[str(event.args["correlation"])] = event
            elif event.category == OP and "External id" in event.args:
                ops[str(event.args["External id"])] = event
        points = [event for event in trace.events if _is_point(event)]
        around = enclosing(filter(_is_module, trace.events), points)
        modules = {id(point): _path(stack) for point, stack in around if stack}
        return cls(calls, ops, modules)


def _is_point(event: ChromeEvent) -> bool:
    return event.category == OP or event.category.endswith(_LAUNCH)


def _is_module(event: ChromeEvent) -> bool:
    if event.category == FUNCTION:
        return event.name.startswith(_CLASS)
    return event.category in (RANGE, OP) and _MODULE.match(event.name) is not None


def _path(stack: Sequence[ChromeEvent]) -> str:
    """``Glm4MoeDecoderLayer_3/Glm4MoeAttention_3/Linear_12`` of classes with their numbers, or the
    innermost path where ranges are named after modules."""
    innermost = stack[-1]
    if innermost.category != FUNCTION:
        return innermost.name.partition(" ")[0]
    return "/".join(each.name.removeprefix(_CLASS) for each in stack if each.category == FUNCTION)


def _work(event: ChromeEvent, launches: _Launches) -> TimelineEvent:
    args = event.args
    correlation = str(args.get("correlation", ""))
    launch = launches.calls.get(correlation)
    op = launches.ops.get(str(args.get("External id", "")))
    module = next(
        (launches.modules[id(each)] for each in (launch, op) if id(each) in launches.modules), ""
    )
    kind = _WORK[event.category]
    if kind is Kind.KERNEL and class_of(event.name) == COLLECTIVE:
        kind = Kind.COLLECTIVE
    size = args.get("bytes")
    return TimelineEvent(
        event.start_us,
        event.duration_us,
        f"{DEVICE_LANE} {args.get('device', event.lane[0])} stream {args.get('stream', '?')}",
        kind,
        event.name,
        module=module,
        op="" if op is None else op.name,
        bytes=size if isinstance(size, int) else None,
        correlation=correlation,
        launched_us=None if launch is None else launch.start_us,
        queued_us=None if launch is None else launch.end_us,
    )


def _operations(trace: ChromeTrace) -> Iterator[TimelineEvent]:
    """The operations of the host as work of a device named cpu: the outermost of a known kind, and
    where none is around, the innermost."""
    ops = [event for event in trace.events if event.category == OP and not _is_module(event)]
    innermost = {id(event) for event in leaves(ops)}
    known = {id(event): class_of(event.name, event.name) != OTHER for event in ops}
    counted = [
        event
        for event, around in enclosing(ops, ops)
        if (known[id(event)] or id(event) in innermost) and not any(known[id(e)] for e in around)
    ]
    for event, stack in enclosing(filter(_is_module, trace.events), counted):
        kind = Kind.COLLECTIVE if class_of(event.name, event.name) == COLLECTIVE else Kind.KERNEL
        yield TimelineEvent(
            event.start_us,
            event.duration_us,
            f"{DEVICE_LANE} cpu thread {event.lane[1]}",
            kind,
            event.name,
            module=_path(stack) if stack else "",
            op=event.name,
            launched_us=event.start_us,
            queued_us=event.start_us,
        )


def _host(trace: ChromeTrace) -> Iterator[TimelineEvent]:
    for event in trace.events:
        if event.category in (RANGE, OP) or event.category.endswith(_LAUNCH):
            yield TimelineEvent(
                event.start_us,
                event.duration_us,
                f"{HOST_LANE} thread {event.lane[1]}",
                Kind.HOST,
                event.name,
                correlation=str(event.args.get("correlation", "")),
            )


def _step_ranges(trace: ChromeTrace) -> list[StepRange]:
    """The steps that an engine names, else those of the profiler's schedule; an engine's own ranges
    on the device count where the host has none."""
    for category, on_device in ((RANGE, False), (DEVICE_RANGE, True)):
        named = [
            StepRange(event.name, kind, event.start_us, event.end_us, on_device)
            for event in trace.events
            if event.category == category and (kind := step_kind(event.name)) is not None
        ]
        if named:
            return named
    unknown = StepKind("", None, None)
    return [
        StepRange(event.name, unknown, event.start_us, event.end_us, False)
        for event in trace.events
        if event.category == RANGE and is_profiler_step(event.name)
    ]
