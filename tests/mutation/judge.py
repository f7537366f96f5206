"""The verdict on a mutant: what it computes by itself beside what it computes after the passes."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from glmc.ir import match as m
from glmc.ir.program import Program
from glmc.ir.rewrite import fake_mode_of
from glmc.pipeline import runner
from glmc.pipeline.records import PassRecord
from tests.mutation import programs
from tests.mutation.mutations import Mutation, mutations
from tests.mutation.subjects import SUBJECTS, Base, Case, Subject, base, fused_count

# Of the largest value: what sums in another order may differ by in float32.
TOLERANCE = 2e-5
# What is fused may be as much worse than a rounding of the operands as this.
CONDITION = 8.0


class Outcome(Enum):
    """``FUSED``: equal, and the pattern was taken. ``REFUSED``: equal, it was not, and the pass
    says why. ``GONE``: so little is left of the pattern that its anchor is not there. The last
    three are faults; ``INVALID`` mutants count for nothing."""

    FUSED = "equal, fused"
    REFUSED = "equal, refused with a reason"
    GONE = "equal, no anchor left"
    UNEXPLAINED = "equal, refused without a reason"
    SILENT = "other values"
    FAILED = "fails"
    INVALID = "invalid"


# What has many patterns of one node has no reasons: a product that is no linear stays a product.
WITHOUT_REASONS = ("canonical",)
FAULTS = (Outcome.SILENT, Outcome.FAILED)


@dataclass(frozen=True)
class Verdict:
    """``name`` reproduces it; ``changes``: by itself the mutant computes something else than its
    spelling."""

    subject: str
    family: str
    kind: str
    mutation: str
    outcome: Outcome
    text: str = ""
    changes: bool = False

    @property
    def name(self) -> str:
        return f"{self.subject}:{self.mutation}"


def all_mutations(subject: Subject) -> list[Mutation]:
    start = base(subject)
    return list(mutations(start.program.graph, start.inside))


def by_name(name: str) -> tuple[Subject, Mutation]:
    """The mutant of a name as a verdict prints it."""
    subject_name, _, rest = name.partition(":")
    subject = SUBJECTS[subject_name]
    for each in all_mutations(subject):
        if each.name == rest:
            return subject, each
    raise KeyError(name)


def verdicts(subject: Subject, limit: int | None = None) -> Iterator[Verdict]:
    """On all mutants, or of each kind on so many that torch takes, always the same ones."""
    by_kind: dict[str, list[Mutation]] = {}
    for each in all_mutations(subject):
        by_kind.setdefault(each.kind, []).append(each)
    for kind, found in by_kind.items():
        if limit is not None:
            random.Random(f"{subject.name}:{kind}").shuffle(found)
        valid = 0
        for tried, each in enumerate(found):
            if limit is not None and (valid == limit or tried == 4 * limit):
                break
            verdict = judge(subject, each)
            valid += verdict.outcome is not Outcome.INVALID
            yield verdict


def verdicts_of(names: Sequence[str], limit: int | None = None) -> list[Verdict]:
    """As :func:`verdicts`, by the subjects' names, for a process of its own."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    return [each for name in names for each in verdicts(SUBJECTS[name], limit)]


def judge(subject: Subject, mutation: Mutation) -> Verdict:
    outcome, text, changes = _judged(subject, mutation)
    return Verdict(
        subject.name, subject.family, mutation.kind, mutation.name, outcome, text, changes
    )


def _judged(subject: Subject, mutation: Mutation) -> tuple[Outcome, str, bool]:
    start = base(subject)
    try:
        program = mutated(start, mutation)
        expected = [programs.run(program, case.inputs, case.held) for case in start.cases]
        programs.update(program, start.program)
        program.graph.lint()
    except Exception as error:  # noqa: BLE001 (whatever torch says to odd arguments)
        return Outcome.INVALID, said(error), False
    changes = any(map(difference, expected, start.results))
    try:
        records = fused(program, start)
    except Exception as error:  # noqa: BLE001 (a pass that crashes is what is looked for)
        return Outcome.FAILED, said(error), changes
    for case, given in zip(start.cases, expected, strict=True):
        try:
            found = programs.run(program, case.inputs, case.held)
        except Exception as error:  # noqa: BLE001
            return Outcome.FAILED, f"{case.name}: {said(error)}", changes
        reason = difference(found, given)
        if reason and not within_condition(mutated(start, mutation), case, found, given):
            return Outcome.SILENT, f"{case.name}: {reason}", changes
    return (*_equal(subject, start, program, records), changes)


def fused(program: Program, start: Base) -> tuple[PassRecord, ...]:
    """The passes over a mutant; sizes that they fix are not those of the next one."""
    mode = fake_mode_of(start.program.graph)
    before = programs.guards(mode)
    try:
        return runner.fuse(program)
    finally:
        if programs.guards(mode) != before:
            programs.propagate(start.program)


def mutated(start: Base, mutation: Mutation) -> Program:
    """The mutant; what has changed has no fake value yet, or that of its spelling."""
    program, nodes = programs.copied(start.program)
    mutation.edit(nodes)
    return program


def _equal(
    subject: Subject, start: Base, program: Program, records: tuple[PassRecord, ...]
) -> tuple[Outcome, str]:
    if fused_count(program, subject.family) >= start.count:
        return Outcome.FUSED, ""
    record = next(each for each in records if each.name == subject.family)
    misses = [miss.condition for each in records for miss in each.near_misses]
    if len(record.near_misses) > start.misses or misses:
        return Outcome.REFUSED, misses[0] if misses else ""
    if subject.family in WITHOUT_REASONS:
        return Outcome.GONE, ""
    left = [
        node.name
        for node in program.graph.nodes
        if (node.meta.get("id"), m.op_name(node)) in start.anchors
    ]
    return (Outcome.UNEXPLAINED, ", ".join(left)) if left else (Outcome.GONE, "")


def said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def difference(found: tuple[Any, ...], expected: tuple[Any, ...]) -> str:
    """Why the values are not the same; '' when they are."""
    if len(found) != len(expected):
        return f"{len(found)} results for {len(expected)}"
    for number, (new, old) in enumerate(zip(found, expected, strict=True)):
        if not isinstance(new, Tensor) or not isinstance(old, Tensor):
            if new != old:
                return f"result {number} is {new} for {old}"
            continue
        if new.shape != old.shape or new.dtype != old.dtype:
            return (
                f"result {number} is {new.dtype} {list(new.shape)} for {old.dtype} "
                f"{list(old.shape)}"
            )
        share = _share(new, old)
        if share > TOLERANCE:
            return f"result {number} is off by {share:.2g} of the largest value"
    return ""


def _share(new: Tensor, old: Tensor) -> float:
    """The largest difference of two values, relative to the largest finite one."""
    if not old.dtype.is_floating_point:
        return 0.0 if torch.equal(new, old) else float("inf")
    one, other = new.double(), old.double()
    finite = other.isfinite()
    if not torch.equal(one.isfinite(), finite):
        return float("inf")
    odd = ~finite
    if not torch.equal(one[odd].nan_to_num(7.0), other[odd].nan_to_num(7.0)):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    largest = float(other[finite].abs().max())
    off = float((one[finite] - other[finite]).abs().max())
    return off / largest if largest > 0 else (0.0 if off == 0 else float("inf"))


def within_condition(
    mutant: Program, case: Case, found: tuple[Any, ...], expected: tuple[Any, ...]
) -> bool:
    """Whether operands that are rounded elsewhere move the values as far as the passes did."""
    generator = torch.Generator().manual_seed(1)

    def shaken(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        return (value.double() * (1 + 2.0**-22 * noise)).to(value.dtype)

    try:
        other = programs.run(
            mutant,
            {name: shaken(value) for name, value in case.inputs.items()},
            {name: shaken(value) for name, value in case.held.items()},
        )
    except Exception:  # noqa: BLE001
        return False
    for new, old, moved in zip(found, expected, other, strict=True):
        if not isinstance(old, Tensor) or new.shape != old.shape or new.dtype != old.dtype:
            return False
        if not old.dtype.is_floating_point:
            if not torch.equal(new, old):
                return False
            continue
        if _share(new, old) > max(TOLERANCE, CONDITION * _share(moved, old)):
            return False
    return True
