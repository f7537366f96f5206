"""What was measured after a compile: errors of its nodes, and times of its calls."""

from __future__ import annotations

from dataclasses import dataclass

WRONG = ("own", "fail")
"""Verdicts of an alignment that say that a value is wrong."""


@dataclass(frozen=True)
class NodeError:
    """The worst value of a node: its verdict and error in words, its step, and the address of its
    cell on the page of the alignment."""

    verdict: str
    error: str
    step: str
    address: str


@dataclass(frozen=True)
class Aligned:
    """An alignment by node. ``expected`` is the label of what the compile was compared with,
    ``first`` the node of the first divergence ('' without one), ``page`` the address of the heat
    map ('' where it is not known)."""

    expected: str
    emulated: bool
    first: str
    nodes: dict[str, NodeError]
    page: str = ""

    @property
    def said(self) -> str:
        return " (emulated)" if self.emulated else ""


@dataclass(frozen=True)
class PlanTimes:
    """The time of each call of a plan, None where the timeline does not have it. ``steps`` says
    of which step, ``shown`` whether the page of the timeline has bars of them."""

    seconds: tuple[float | None, ...]
    steps: str
    shown: bool

    @property
    def us(self) -> str:
        """All of them together, in microseconds."""
        return f"{1e6 * sum(each or 0.0 for each in self.seconds):,.1f}"


@dataclass(frozen=True)
class Timed:
    """A timeline by call, for each phase. ``how`` is ``emulated``, ``interpreted`` or '', ``page``
    the address of the timeline's page ('' where it is not known)."""

    label: str
    how: str
    phases: dict[str, PlanTimes]
    page: str = ""

    @property
    def said(self) -> str:
        return f" ({self.how})" if self.how else ""
