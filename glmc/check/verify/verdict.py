"""The verdict of a proof: a line for each pass, and every violation of a numerics class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch.fx import Node

from glmc.errors import Lines, VerificationError
from glmc.ir.ops import Numerics
from glmc.ir.tolerance import Tolerance
from glmc_runtime.command.units import share_text


@dataclass(frozen=True)
class Violation:
    """``match`` is the anchor's id and ``node`` the id of the value that is wrong.

    ``error`` and ``bound`` are absolute, both at the element that is furthest beyond its bound;
    an infinite error stands for another shape or dtype, for a NaN, and for a value that can't be
    computed: ``failure`` then says why. ``source`` is a line of the model. ``rank`` is the worst
    of several, None where their sum is wrong.
    """

    pass_name: str
    numerics: str
    match: str | None
    node: str
    layer: int | None
    case: str
    error: float
    bound: float
    source: str
    failure: str = ""
    rank: int | None = None

    def __str__(self) -> str:
        where = "" if self.layer is None else f" in layer {self.layer}"
        where += "" if self.rank is None else f" on rank {self.rank}"
        match = "" if self.match is None else f", rewritten at {self.match},"
        what = f"is off by {self.error:.3g} (allowed {self.bound:.3g})"
        if self.failure:
            what = f"can't be computed ({self.failure})"
        return f"{self.node}{where}{match} {what} on: {self.case}"


@dataclass(frozen=True)
class Wrong:
    """A node that computes ``found`` from ``values`` where it should compute ``expected``.

    ``known`` are the nodes whose values are those of the program before.
    """

    node: Node
    values: Mapping[Node, Any]
    known: frozenset[Node]
    expected: Any
    tolerance: Tolerance
    case: str


@dataclass(frozen=True)
class Verdict:
    """``text`` is for people, such as ``bitwise: 13 rewrites equal on 6 inputs``.

    ``wrong`` is the first violation of a pass that is judged node by node.
    """

    pass_name: str
    numerics: str
    text: str
    violations: tuple[Violation, ...] = ()
    wrong: Wrong | None = field(default=None, compare=False, repr=False)

    @property
    def holds(self) -> bool:
        return not self.violations


def renumbered(verdict: Verdict, layers: Mapping[int, int]) -> Verdict:
    """A verdict on a part of a model, with the layers' numbers in the model: ``layers`` maps."""

    def name(text: str) -> str:
        return re.sub(r"(?<=layers\.)\d+", lambda match: str(layers[int(match[0])]), text)

    def violation(each: Violation) -> Violation:
        return replace(
            each,
            match=None if each.match is None else name(each.match),
            node=name(each.node),
            layer=None if each.layer is None else layers[each.layer],
        )

    return replace(
        verdict,
        text=name(verdict.text),
        violations=tuple(map(violation, verdict.violations)),
    )


def verdict_text(
    numerics: Numerics,
    compared: int,
    noun: str,
    cases: int,
    largest: float,
    violations: Sequence[Violation],
    matches: int = 0,
) -> str:
    """``compared`` counts what was, ``largest`` is the largest share of a bound that was taken.

    ``matches`` of neighbours may make one rewrite: then there are more of them than ``compared``.
    """
    inputs = f"{cases} input{'' if cases == 1 else 's'}"
    if violations:
        places = f"{len(violations)} value{'' if len(violations) == 1 else 's'}"
        return f"VIOLATED: {places} beyond {numerics.value} on {inputs}; {violations[0]}"
    if not compared:
        return f"{numerics.value}: nothing changed"
    things = f"{compared} {noun}{'' if compared == 1 else 's'}"
    if matches > compared:
        things = f"{matches} matches in {things} (neighbours are compared as one)"
    if not largest:
        return f"{numerics.value}: {things} equal on {inputs}"
    return f"{numerics.value}: {things} off by at most {off_by(largest)} on {inputs}"


def off_by(share: float) -> str:
    """The largest share of what is allowed that was taken, in words."""
    return f"{share_text(share)} of what is allowed"


def require_verdict(verdict: Verdict) -> None:
    """Raise VerificationError for a verdict with violations; names the first and counts them."""
    if verdict.holds:
        return
    first = verdict.violations[0]
    raise VerificationError(
        f"{verdict.pass_name} is declared {verdict.numerics} and changes values",
        place=_place(first),
        expected=f"a difference of at most {first.bound:.3g}",
        found=Lines.of(_few(verdict.violations)),
    )


def _place(violation: Violation) -> str:
    parts = [f"pass {violation.pass_name}"]
    if violation.match is not None:
        parts.append(f"match {violation.match}")
    parts.append(f"node {violation.node}")
    if violation.layer is not None:
        parts.append(f"layer {violation.layer}")
    if violation.source:
        parts.append(violation.source)
    return ", ".join(parts)


def _few(violations: Sequence[Violation], shown: int = 4) -> list[str]:
    lines = [str(item) for item in violations[:shown]]
    if len(violations) > shown:
        lines.append(f"and {len(violations) - shown} more")
    return lines
