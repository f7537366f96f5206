"""From a violated verdict to the first rewrite, or the first node, that is to blame."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node

from glmc.check.bisect.evidence import Counterexample, half
from glmc.check.verify.cases import Case
from glmc.check.verify.execution import BoundInputs, values_of
from glmc.check.verify.regions import Pair, Region, regions
from glmc.check.verify.verdict import Verdict
from glmc.check.verify.weights import ModelWeights
from glmc.errors import InternalError
from glmc.ir.ops import Numerics
from glmc.ir.program import Program
from glmc.ir.tolerance import tolerance_of


def first_rewrite(
    before: Program,
    after: Program,
    verdict: Verdict,
    cases: Sequence[Case],
    weights: ModelWeights,
) -> Counterexample:
    """The first rewrite in graph order that changes a value, on the shortest case that shows it.

    Raises InternalError when no rewrite does, though the verdict says so.
    """
    first = verdict.violations[0]
    numerics = Numerics(verdict.numerics)
    short = sorted(cases, key=lambda case: (case.token_ids.numel(), case.name != first.case))
    for region in regions(before, after):
        for end in region.ends:
            if end.before.meta["id"] != first.node:
                continue
            for case in short:
                evidence = _evidence(before, after, region, end, numerics, case, weights)
                if not evidence.deviation().allowed:
                    return evidence
    raise InternalError(
        "a violated rewrite computes the right value when it is run alone",
        place=f"pass {verdict.pass_name}, node {first.node}",
        found=str(first),
    )


def _evidence(
    before: Program,
    after: Program,
    region: Region,
    end: Pair,
    numerics: Numerics,
    case: Case,
    weights: ModelWeights,
) -> Counterexample:
    altered = weights.altered(case.alteration)
    bound = BoundInputs(before, case.inputs, altered.table(before))
    packed = BoundInputs(after, case.inputs, altered.table(after))
    olds = half(end.before, [pair.before for pair in region.starts], before.graph.nodes)
    news = half(end.after, [pair.after for pair in region.starts], after.graph.nodes)
    partner = {pair.after: pair.before for pair in region.starts}
    same = {new: partner[new] for new in news.starts if partner.get(new) in olds.starts}
    wanted = {*olds.starts, *(partner[new] for new in news.starts if new in partner)}
    computed = values_of(before, bound, wanted)
    values: dict[Node, object] = {
        new: computed[partner[new]] if new in partner else packed[new] for new in news.starts
    }
    values |= {old: computed[old] for old in olds.starts if old not in same.values()}
    tolerance = tolerance_of(numerics, region.halves)
    return Counterexample(olds, news, same, values, None, tolerance, case.name)


def first_node(verdict: Verdict) -> Counterexample:
    """The first node of a paged program that computes another value than the program before.

    Raises InternalError when the verdict kept none.
    """
    wrong = verdict.wrong
    if wrong is None:
        raise InternalError("a violated verdict names no node", place=verdict.pass_name)
    news = half(wrong.node, wrong.known, wrong.node.graph.nodes)
    values = {start: wrong.values[start] for start in news.starts}
    return Counterexample(None, news, {}, values, wrong.expected, wrong.tolerance, wrong.case)
