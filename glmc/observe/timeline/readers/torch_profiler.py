"""torch.profiler's Chrome traces, those of vLLM and SGLang among them.

Modules are known where the profiler was asked for them (``with_stack`` or ``with_modules``), or
where ranges are named after them.
"""

from __future__ import annotations

from glmc.observe.timeline.readers.annotations import is_sglang_step
from glmc.observe.timeline.readers.chrome import ChromeTrace
from glmc.observe.timeline.readers.launched import KNOWN, launched_timeline
from glmc.observe.timeline.table import NOT_OURS, Facts, Timeline

TORCH_PROFILER = "torch.profiler"
NOTHING_KEPT = (
    "record it once more: with schedule=, as many calls of step() as wait, warmup and active have "
    "together, and repeat=1, without which the profiler begins anew and drops what it had"
)


def is_torch_profiler(trace: ChromeTrace) -> bool:
    """Whether torch.profiler wrote a trace: it has a schema version, or categories of Kineto."""
    return "schemaVersion" in trace.head or any(each.category in KNOWN for each in trace.events)


def read_torch_profiler(label: str, trace: ChromeTrace) -> Timeline:
    """The trace as a table; layers are not known yet."""
    facts = Facts(
        source=TORCH_PROFILER,
        tried=not any(is_sglang_step(each.name) for each in trace.events),
        device=_device(trace),
        attribution=NOT_OURS,
    )
    return launched_timeline(label, trace, facts)


def _device(trace: ChromeTrace) -> str:
    listed = trace.head.get("deviceProperties")
    names = [
        str(each["name"])
        for each in (listed if isinstance(listed, list) else [])
        if isinstance(each, dict) and "name" in each
    ]
    return ", ".join(dict.fromkeys(names)) or "cpu"
