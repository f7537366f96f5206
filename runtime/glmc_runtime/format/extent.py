"""Sizes that follow the step: linear in its tokens and sequences, or in sizes of other names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

from glmc_runtime.errors import PlanError

_TERM = re.compile(r"^(?:(\d{1,18})\*)?(tokens|sequences)$|^(\d{1,18})$")
_LARGEST = 1 << 48


Sizes = tuple[str, ...]
"""A product of named sizes, sorted: ``("s0", "s1")`` is s0 * s1."""


@dataclass(frozen=True)
class Extent:
    """A size that is linear in the step: ``tokens * a + sequences * b + constant``.

    A plan that was not made for an artifact has sizes of other names instead, and products of
    them: ``named`` holds each with its factor, sorted. Such an extent has no JSON form.
    """

    tokens: int = 0
    sequences: int = 0
    constant: int = 0
    named: tuple[tuple[Sizes, int], ...] = ()

    def evaluate(
        self, tokens: int, sequences: int, sizes: Mapping[str, int] = MappingProxyType({})
    ) -> int:
        total = self.tokens * tokens + self.sequences * sequences + self.constant
        for names, factor in self.named:
            total += factor * prod([sizes[name] for name in names])
        return total

    @property
    def moves(self) -> bool:
        """Whether the size is another one in another step."""
        return bool(self.tokens or self.sequences or self.named)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The names that the size depends on."""
        own = (("tokens", self.tokens), ("sequences", self.sequences))
        named = (name for names, _ in self.named for name in names)
        return tuple(dict.fromkeys((*(name for name, factor in own if factor), *named)))

    def __add__(self, other: Extent) -> Extent:
        return Extent(
            self.tokens + other.tokens,
            self.sequences + other.sequences,
            self.constant + other.constant,
            _sum((*self.named, *other.named)) if self.named or other.named else (),
        )

    def __mul__(self, factor: int) -> Extent:
        return Extent(
            self.tokens * factor,
            self.sequences * factor,
            self.constant * factor,
            _sum((names, number * factor) for names, number in self.named) if self.named else (),
        )

    def times(self, other: Extent) -> Extent:
        """The product; raises :class:`PlanError` where tokens or sequences meet another size."""
        if not other.moves:
            return self * other.constant
        if not self.moves:
            return other * self.constant
        if self.tokens or self.sequences or other.tokens or other.sequences:
            raise PlanError("a size would be quadratic in the step", found=f"({self}) * ({other})")
        terms = [
            (tuple(sorted((*symbols, *two))), first * second)
            for symbols, first in (*self.named, ((), self.constant))
            for two, second in (*other.named, ((), other.constant))
        ]
        constant = sum(number for names, number in terms if not names)
        return Extent(constant=constant, named=_sum(term for term in terms if term[0]))

    def __str__(self) -> str:
        terms = []
        for factor, name in (
            (self.tokens, "tokens"),
            (self.sequences, "sequences"),
            *((factor, "*".join(names)) for names, factor in self.named),
        ):
            if factor:
                terms.append(name if factor == 1 else f"{factor}*{name}")
        if self.constant or not terms:
            terms.append(str(self.constant))
        return "+".join(terms)

    @staticmethod
    def parse(text: int | str) -> Extent:
        """Read ``128``, ``"tokens"``, ``"8*tokens"`` or ``"sequences+1"``."""
        if isinstance(text, int):
            return Extent(constant=text)._checked(text)
        total = Extent()
        for term in str(text).replace(" ", "").split("+"):
            match = _TERM.match(term)
            if match is None:
                raise PlanError(f"'{text}' is not a size", expected="a*tokens+b*sequences+c")
            factor, symbol, constant = match.groups()
            if constant is not None:
                total += Extent(constant=int(constant))
            elif symbol == "tokens":
                total += Extent(tokens=int(factor or 1))
            else:
                total += Extent(sequences=int(factor or 1))
        return total._checked(text)

    def _checked(self, text: int | str) -> Extent:
        """Refuse what no memory has, so that later sums stay within 64 bits."""
        if not all(0 <= part <= _LARGEST for part in (self.tokens, self.sequences, self.constant)):
            raise PlanError("a size is out of range", expected=f"0 to {_LARGEST}", found=str(text))
        return self

    def to_json(self) -> int | str:
        return str(self) if self.moves else self.constant


def _sum(terms: Iterable[tuple[Sizes, int]]) -> tuple[tuple[Sizes, int], ...]:
    """Like terms added up, sorted; those that vanish are left out."""
    total: dict[Sizes, int] = {}
    for names, factor in terms:
        total[names] = total.get(names, 0) + factor
    return tuple(sorted((names, factor) for names, factor in total.items() if factor))


Shape = tuple[Extent, ...]
