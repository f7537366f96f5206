"""Watches a compile and proves each pass: the graph before and after it, on the same inputs."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from glmc.check.verify.cases import Case
from glmc.check.verify.dealt import verify_shard
from glmc.check.verify.execution import NodeError
from glmc.check.verify.fused import verify_rewrites
from glmc.check.verify.paged import verify_paging, verify_phase
from glmc.check.verify.verdict import Verdict, renumbered, require_verdict
from glmc.check.verify.weights import ModelWeights
from glmc.errors import InternalError, VerificationError
from glmc.ir.program import Program
from glmc.passes import shard, specialise
from glmc.passes.specialise import PHASE_NAMES
from glmc.pipeline.events import Event, StepDone
from glmc.pipeline.records import PassRecord


def verify_pass(
    before: Program,
    after: Program,
    record: PassRecord,
    cases: Sequence[Case],
    weights: ModelWeights,
) -> Verdict:
    """Whether ``after`` computes what ``before`` does, as ``record.numerics`` says.

    ``after`` must stand as its pass left it. Neither program is changed. Raises VerificationError
    only where ``before`` can't be run.
    """
    verify = verify_rewrites
    if before.ranks != after.ranks or record.name == shard.NAME:
        verify = verify_shard
    elif before.phase != after.phase:
        verify = verify_paging if before.phase == "stateless" else verify_phase
    try:
        return verify(before, after, record, cases, weights)
    except NodeError as error:
        raise VerificationError(
            f"the graph before {record.name} can't be computed",
            place=f"node {error.node.meta.get('id')}, {error.node.meta.get('source')}",
            found=str(error),
        ) from error


@dataclass
class Verifier:
    """Hears the steps of a compile. ``verdicts`` are by step, in order.

    Raises VerificationError after the pass that violates its class, unless ``strict`` is False.
    ``layers`` maps the layers of a part of a model to the model's. ``captured`` is the program
    that came first, ``last`` what the last step left that others follow. Steps of ``proved`` are
    not looked at.
    """

    cases: Sequence[Case]
    weights: ModelWeights
    strict: bool = True
    layers: Mapping[int, int] | None = None
    captured: Program | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    last: Program | None = None
    proved: Container[str] = ()

    def observe(self, event: Event) -> None:
        """Compare what a step has left with what the step before it has."""
        if not isinstance(event, StepDone):
            return
        name, program, before = event.name, event.program, self.last
        if name not in PHASE_NAMES:  # all of these are made of the paged program
            self.last = program.copy()
        if before is None:
            self.captured = self.last
        if before is None or name in self.proved:
            return
        verdict = verify_pass(before, program, _record(event), self.cases, self.weights)
        if self.layers is not None:
            verdict = renumbered(verdict, self.layers)
        self.verdicts[name] = verdict
        if self.strict:
            require_verdict(verdict)


def _record(event: StepDone) -> PassRecord:
    if event.name in PHASE_NAMES:
        nodes = len(event.program.graph.nodes)
        return PassRecord(specialise.NAME, specialise.NUMERICS.value, 0.0, nodes, nodes, (), ())
    if event.record is None:
        raise InternalError(f"the step {event.name} left no record")
    return event.record
