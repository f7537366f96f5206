"""A pass over one kind of graph: each rewrite beside what it replaced, on the same values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from glmc.check.verify.cases import Case
from glmc.check.verify.execution import BoundInputs, NodeError, each_region
from glmc.check.verify.regions import Region, regions
from glmc.check.verify.verdict import Verdict, Violation, verdict_text
from glmc.check.verify.weights import ModelWeights
from glmc.ir.ops import Numerics
from glmc.ir.program import Program
from glmc.ir.tolerance import Deviation, compare, tolerance_of
from glmc.passes.base import Match
from glmc.pipeline.records import PassRecord


def verify_rewrites(
    before: Program,
    after: Program,
    record: PassRecord,
    cases: Sequence[Case],
    weights: ModelWeights,
) -> Verdict:
    """Both programs take the same inputs; ``after`` stands as its pass left it."""
    numerics = Numerics(record.numerics)
    rewritten = regions(before, after)
    order = {region: number for number, region in enumerate(rewritten)}
    tolerances = {
        region: tolerance_of(numerics, region.halves, record.budget) for region in rewritten
    }
    violations: dict[tuple[int, int], Violation] = {}
    largest = 0.0
    for case in cases:
        altered = weights.altered(case.alteration)
        bound = BoundInputs(before, case.inputs, altered.table(before))
        packed = BoundInputs(after, case.inputs, altered.table(after))
        for ran in each_region(before, rewritten, bound, packed):
            region = ran.region
            tolerance = replace(tolerances[region], condition=ran.condition)
            for number, (was, now) in enumerate(ran.pairs):
                deviation = compare(was, now, tolerance)
                largest = max(largest, deviation.share)
                failure = str(now) if isinstance(now, NodeError) else ""
                place = (order[region], number)
                if not deviation.allowed and place not in violations:
                    violations[place] = _violation(record, region, number, case, deviation, failure)
    ordered = tuple(violations[place] for place in sorted(violations))
    matches = len(record.matches)
    text = verdict_text(numerics, len(rewritten), "rewrite", len(cases), largest, ordered, matches)
    return Verdict(record.name, record.numerics, text, ordered)


def _violation(
    record: PassRecord,
    region: Region,
    number: int,
    case: Case,
    deviation: Deviation,
    failure: str,
) -> Violation:
    match = match_of(region, record.matches)
    end = region.ends[number].before
    return Violation(
        record.name,
        record.numerics,
        None if match is None else match.node,
        end.meta["id"],
        region.layer if match is None else match.layer,
        case.name,
        deviation.error,
        deviation.bound,
        end.meta.get("source") or "",
        failure,
    )


def match_of(region: Region, matches: Sequence[Match]) -> Match | None:
    """The match that made a region: its anchor is among what the region stands for, or it is the
    only one of the layer (the anchor of a merge may be after what is merged)."""
    for match in matches:
        if match.node in region.ids:
            return match
    of_layer = [match for match in matches if match.layer == region.layer]
    return of_layer[0] if len(of_layer) == 1 else None
