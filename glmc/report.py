"""The report of a compile: what each pass did, what the plan costs, what was not fused.

Plain data; ``report.json`` and ``times.json`` of the artifact and every table of the command line
come from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch.fx import Graph

from glmc.artifact.inputs import NOT_STORED
from glmc.artifact.report_form import SCHEMA_VERSION
from glmc.config import CompileOptions
from glmc.ir import match as m
from glmc.ir.instances import SMALL
from glmc.ir.ops.aten import VIEWS
from glmc.job import Job
from glmc.lowering.lower import Lowered
from glmc.pipeline.records import PassRecord
from glmc.presets.matches import expected_collectives
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.kernels import is_vendor

# A helper that stands where a vendor call would: linear layers are the vendor's own.
_LINEAR = "aten.linear"


@dataclass(frozen=True)
class Report:
    """``layers`` maps 'outside' and each layer to its calls; see :func:`build_report`.

    ``dtype_choice`` is how ``--dtype auto`` was decided (glmc/dtype_choice.py).
    """

    model: dict[str, Any]
    options: dict[str, Any]
    passes: tuple[dict[str, Any], ...]
    expected_matches: dict[str, int]
    phases: dict[str, dict[str, Any]]
    eager: dict[str, Any]
    remarks: tuple[str, ...]
    seconds: dict[str, float]
    dtype_choice: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    def noted(self, *remarks: str) -> Report:
        """The report with more remarks."""
        return replace(self, remarks=(*self.remarks, *remarks))

    def verified(self, verdicts: Mapping[str, str]) -> Report:
        """With the verdict of each pass; what belongs to no pass or phase is a remark."""
        passes = tuple(
            {**row, "verdict": verdicts[row["name"]]} if row["name"] in verdicts else row
            for row in self.passes
        )
        named = {*(row["name"] for row in self.passes), *self.phases}
        remarks = tuple(f"{name}: {text}" for name, text in verdicts.items() if name not in named)
        return replace(self, passes=passes, remarks=(*self.remarks, *remarks))

    def timed(self, stage: str, seconds: float) -> Report:
        return replace(self, seconds={**self.seconds, stage: seconds})


def eager_operations(graph: Graph) -> dict[str, Any]:
    """ATen operations of the traced eager model, views not counted: by layer and in total."""
    by_layer: Counter[str] = Counter()
    for node in graph.nodes:
        name = m.op_name(node)
        if name.startswith("aten.") and name not in VIEWS:
            by_layer[_layer_name(node.meta["layer"])] += 1
    return {"by_layer": dict(by_layer), "total": sum(by_layer.values())}


def build_report(
    job: Job,
    records: Sequence[PassRecord],
    lowered: Mapping[PhaseKey, Lowered],
    eager: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> Report:
    """Gather the report of one compile."""
    options, lowering = job.options, job.lowering
    remarks = dict.fromkeys(text for phase in lowered.values() for text in phase.remarks)
    choice = () if job.choice is None else job.choice.remarks
    return Report(
        model={**asdict(job.source.shape)},
        options={
            **{name: value for name, value in asdict(options).items() if name not in NOT_STORED},
            "dtype": str(lowering.dtype).removeprefix("torch."),
            "max_context": lowering.max_context,
            "abi_profile": lowering.abi_profile,
        },
        passes=tuple(_pass(record) for record in records),
        expected_matches=job.expected_matches,
        phases={str(key): phase_report(phase.plan, options) for key, phase in lowered.items()},
        eager=dict(eager),
        remarks=(*job.selection.remarks(), *choice, *_not_dealt(job, records), *remarks),
        seconds=dict(seconds),
        dtype_choice=None if job.choice is None else asdict(job.choice),
    )


def _not_dealt(job: Job, records: Sequence[PassRecord]) -> Iterator[str]:
    """What a compile that is not held to its counts leaves whole: cards are none the lighter."""
    if job.dealt is None:
        return
    found = sum(len(record.matches) for record in records if record.name == job.dealt.name)
    wanted = sum(expected_collectives(job.source.fields).values())
    if found < wanted:
        yield (
            f"only {found} of {wanted} parts of the model are dealt: each of the {job.dealt.ranks} "
            "ranks has the others whole, and computes them all"
        )


def phase_report(plan: PhasePlan, options: CompileOptions) -> dict[str, Any]:
    """Calls by layer and kind, kernels, segments and arena sizes of a phase."""
    vendor: Counter[str] = Counter()
    helper: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    for call in plan.calls:
        kernels[call.function] += 1
        side = vendor if is_vendor(call.function) or call.function == _LINEAR else helper
        side[_layer_name(call.layer)] += 1
    return {
        "calls": len(plan.calls),
        "vendor_calls_by_layer": dict(vendor),
        "helper_calls_by_layer": dict(helper),
        "kernels": dict(kernels),
        "segments": len(plan.segments),
        "captured_segments": sum(segment.captured for segment in plan.segments),
        "buffers": len(plan.buffers),
        "arena": str(plan.arena),
        "arena_bytes": {
            str(bucket): plan.arena.evaluate(options.largest(plan.name, bucket))
            for bucket in options.buckets[plan.name]
        },
    }


def _layer_name(layer: int | None) -> str:
    return "outside" if layer is None else str(layer)


def _pass(record: PassRecord) -> dict[str, Any]:
    layers = sorted({match.layer for match in record.matches if match.layer is not None})
    return {
        "name": record.name,
        "numerics": record.numerics,
        "seconds": record.seconds,
        "nodes_before": record.nodes_before,
        "nodes_after": record.nodes_after,
        "matches": len(record.matches),
        "layers": layers,
        "near_misses": [asdict(miss) for miss in record.near_misses],
        "detail": dict(record.detail),
        "evaluated": {
            "kinds": len(record.evaluations),
            "small": record.evaluations.count(SMALL),
            "seconds": record.evaluation_seconds,
        },
    }
