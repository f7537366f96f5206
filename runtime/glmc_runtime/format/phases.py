"""Phases as one table: what each computes in a step, and how the runtime treats it.

A row says which symbols size a step and how they relate, which step inputs its programs have, and
what it gives back. Compiler, checks, replay and engine read it; :func:`register` adds a row, and
an artifact with a plan of that phase then loads, binds and replays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

from glmc_runtime.errors import PlanError
from glmc_runtime.format.extent import Extent

VOCABULARY = "vocabulary"
"""In the shape of an output, the manifest's size of the vocabulary."""
_REAL = "real "


class PhaseKey(NamedTuple):
    """Whose plan: a phase, and the rank of the device that runs it."""

    phase: str
    rank: int = 0

    @property
    def file(self) -> str:
        """The plan's file in an artifact."""
        return f"plans/{self}.json"

    def __str__(self) -> str:
        """``decode``, and for a rank ``decode.3``."""
        return self.phase if not self.rank else f"{self.phase}.{self.rank}"


class Order:
    """What is known of symbols: each is at least 1, and of some pairs the first is at most the
    second, in every step."""

    def __init__(self, symbols: Iterable[str] = (), pairs: Iterable[tuple[str, str]] = ()) -> None:
        names, smaller = tuple(symbols), tuple(pairs)
        self._symbols = frozenset(names)
        subsets = (
            set(some) for size in range(len(names)) for some in combinations(names, size + 1)
        )
        # Along such a set of symbols a step can grow by itself: what is larger grows with it.
        self._directions = tuple(
            tuple((name,) for name in subset)
            for subset in subsets
            if all(large in subset for small, large in smaller if small in subset)
        )

    def at_most(self, left: Extent, right: Extent) -> bool:
        """Whether ``left <= right`` in every step. Other names than the symbols, and products, are
        each at least 0 and unrelated."""
        if left.terms == right.terms:
            return left.constant <= right.constant
        factors: dict[tuple[str, ...], int] = dict(right.terms)
        for names, factor in left.terms:
            factors[names] = factors.get(names, 0) - factor
        least, known = right.constant - left.constant, self._symbols
        for names, factor in factors.items():
            if len(names) == 1 and names[0] in known:
                least += factor  # every symbol is 1
            elif factor < 0:
                return False
        return least >= 0 and all(
            sum([factors.get(name, 0) for name in direction]) >= 0 for direction in self._directions
        )


@dataclass(frozen=True)
class Phase:
    """A row of the table.

    ``symbols`` size a step, in the order of their lanes in memory; ``bucket`` is the one that a
    step is padded in. ``smaller``: pairs of which the first is at most the second; ``equal``: pairs
    of which the first is always the second. ``inputs`` are the step inputs of its programs, rows
    of :mod:`glmc_runtime.format.step_inputs`; lowering may add others. ``output`` is the shape of
    what a step gives back. With ``captured`` each bucket becomes device graphs where the device has
    them. ``bindings_kept`` is how many steps stay bound; None: all.
    """

    name: str
    symbols: tuple[str, ...]
    inputs: tuple[str, ...]
    bucket: str = "tokens"
    smaller: tuple[tuple[str, str], ...] = ()
    equal: tuple[tuple[str, str], ...] = ()
    output: tuple[str, str] = ("sequences", VOCABULARY)
    captured: bool = False
    bindings_kept: int | None = None

    @property
    def key(self) -> PhaseKey:
        """The key of its plan where there is one rank."""
        return PhaseKey(self.name)

    @cached_property
    def equal_names(self) -> Mapping[str, str]:
        """For each symbol that is always another one, that other one."""
        return dict(self.equal)

    @cached_property
    def order(self) -> Order:
        """What is known of the symbols that are left by :meth:`normal`."""
        left = [name for name in self.symbols if name not in self.equal_names]
        return Order(left, self.smaller)

    def equates(self, first: str, second: str) -> bool:
        """Whether two symbols are always equal: sequences and tokens where each has one token."""
        names = self.equal_names
        return names.get(first, first) == names.get(second, second)

    def normal(self, extent: Extent, real: bool = False) -> Extent:
        """A size with one name for equal symbols, and the ``real`` counts under names of their
        own, so that equal sizes are equal."""
        if not extent.terms or not (real or self.equal):
            return extent
        known = self._normal.get((extent, real))
        if known is None:
            known = extent.renamed(self.equal_names)
            if real:
                known = known.renamed({name: real_name(name) for name in known.symbols})
            self._normal[extent, real] = known
        return known

    @cached_property
    def _normal(self) -> dict[tuple[Extent, bool], Extent]:
        """Sizes that were asked for before: the calls of layers repeat each other."""
        return {}

    def largest(self, bucket: int, most: Mapping[str, int]) -> dict[str, int]:
        """The largest value of each symbol where ``bucket`` is that of the bucket's, and ``most``
        has bounds of others."""
        sizes = {name: most.get(name, bucket) for name in self.symbols}
        sizes[self.bucket] = bucket
        for small, large in self.smaller * len(self.smaller):  # as often as pairs can be a chain
            sizes[small] = min(sizes[small], sizes[large])
        return {name: sizes[self.equal_names.get(name, name)] for name in self.symbols}

    def allows(self, sizes: Mapping[str, int]) -> bool:
        """Whether a step of these sizes can be one of the phase."""
        return (
            set(sizes) >= set(self.symbols)
            and all(sizes[name] >= 1 for name in self.symbols)
            and all(sizes[small] <= sizes[large] for small, large in self.smaller)
            and all(sizes[name] == sizes[other] for name, other in self.equal)
        )


def real_name(symbol: str) -> str:
    """The name of how much of a symbol is real, and not padding of the bucket."""
    return _REAL + symbol


PHASES: dict[str, Phase] = {}


def register(phase: Phase) -> None:
    """Add a row; raises :class:`PlanError` for one that is there already or contradicts itself."""
    if phase.name in PHASES or not phase.name.isidentifier():
        raise PlanError(f"'{phase.name}' can't be the name of another phase")
    named = {phase.bucket, phase.output[0], *sum((*phase.smaller, *phase.equal), ())}
    if not named <= set(phase.symbols):
        raise PlanError(
            f"the phase '{phase.name}' names a symbol that it does not have",
            expected=", ".join(phase.symbols),
            found=", ".join(sorted(named - set(phase.symbols))),
        )
    PHASES[phase.name] = phase


def phase_of(name: str) -> Phase:
    """The row of a phase; raises :class:`PlanError`."""
    if name not in PHASES:
        raise PlanError(f"'{name}' is no phase", expected=", ".join(PHASES))
    return PHASES[name]


_WRITING = ("token_ids", "positions", "slot_mapping", "block_tables")
PREFILL = Phase(
    "prefill",
    ("tokens", "sequences"),
    (*_WRITING, "cu_seqlens_q", "cu_seqlens_k", "last_rows"),
    smaller=(("sequences", "tokens"),),
    bindings_kept=64,  # its steps come in any shape
)
DECODE = Phase(
    "decode",
    ("tokens", "sequences"),
    (*_WRITING, "context_lengths"),
    equal=(("sequences", "tokens"),),
    captured=True,
)
for _phase in (PREFILL, DECODE):
    register(_phase)
