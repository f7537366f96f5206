"""Sizes that follow the step: coefficients by symbol name, such as ``8*tokens+sequences+1``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from glmc_runtime.errors import PlanError

_TERM = re.compile(r"^(?:(\d{1,18})\*)?([a-z][a-z0-9_]*)$|^(\d{1,18})$")
_LARGEST = 1 << 48

Product = tuple[str, ...]
"""A product of symbols, sorted: ``("s0", "s1")`` is s0 * s1, ``("tokens",)`` is tokens."""


@dataclass(frozen=True)
class Extent:
    """A sum of products of symbols, each with its factor, and a constant.

    ``terms`` are sorted, the last name first, and none has the factor 0, so that equal sizes are
    equal. A size of an artifact is linear: each of its products is one symbol.
    """

    terms: tuple[tuple[Product, int], ...] = ()
    constant: int = 0

    @staticmethod
    def of(constant: int = 0, **factors: int) -> Extent:
        """A linear size: ``Extent.of(tokens=8, sequences=1, constant=1)``."""
        return Extent(_sum(((name,), factor) for name, factor in factors.items()), constant)

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """The size where the symbols have these values."""
        total = self.constant
        for names, factor in self.terms:
            if len(names) == 1:
                total += factor * sizes[names[0]]
            else:
                total += factor * prod([sizes[name] for name in names])
        return total

    @property
    def moves(self) -> bool:
        """Whether the size is another one in another step."""
        return bool(self.terms)

    @property
    def linear(self) -> bool:
        """Whether no term is a product of several symbols."""
        return all(len(names) == 1 for names, _ in self.terms)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that the size depends on, each once."""
        if len(self.terms) == 1 and len(self.terms[0][0]) == 1:
            return self.terms[0][0]
        return tuple(dict.fromkeys(name for names, _ in self.terms for name in names))

    def factor(self, symbol: str) -> int:
        """How often a symbol is counted by itself."""
        return next((factor for names, factor in self.terms if names == (symbol,)), 0)

    def renamed(self, names: Mapping[str, str]) -> Extent:
        """The size over other symbols."""
        if not any(name in names for name in self.symbols):
            return self
        terms = ((tuple(names.get(n, n) for n in product), f) for product, f in self.terms)
        return Extent(_sum((tuple(sorted(product)), f) for product, f in terms), self.constant)

    def __add__(self, other: Extent) -> Extent:
        constant = self.constant + other.constant
        if not other.terms or not self.terms:
            return Extent(self.terms or other.terms, constant)
        return Extent(_sum((*self.terms, *other.terms)), constant)

    def __mul__(self, factor: int) -> Extent:
        if not factor:
            return Extent()
        terms = tuple((names, number * factor) for names, number in self.terms)
        return Extent(terms, self.constant * factor)

    def times(self, other: Extent) -> Extent:
        """The product."""
        if not other.terms:
            return self * other.constant
        if not self.terms:
            return other * self.constant
        terms = [
            (tuple(sorted((*names, *others))), first * second)
            for names, first in (*self.terms, ((), self.constant))
            for others, second in (*other.terms, ((), other.constant))
        ]
        constant = sum(number for names, number in terms if not names)
        return Extent(_sum(term for term in terms if term[0]), constant)

    def __str__(self) -> str:
        terms = []
        for names, factor in self.terms:
            text = "*".join(names)
            terms.append(text if factor == 1 else f"{factor}*{text}")
        if self.constant or not terms:
            terms.append(str(self.constant))
        return "+".join(terms)

    @staticmethod
    @lru_cache(maxsize=4096, typed=True)
    def parse(text: int | str, symbols: tuple[str, ...] | None = None) -> Extent:
        """Read ``128``, ``"tokens"``, ``"8*tokens"`` or ``"sequences+1"``; raises
        :class:`PlanError` for anything else, and for another symbol than ``symbols``."""
        if isinstance(text, int):
            return Extent(constant=text)._checked(text)
        terms: list[tuple[Product, int]] = []
        constant = 0
        for term in str(text).replace(" ", "").split("+"):
            match = _TERM.match(term)
            if match is None:
                raise PlanError(f"'{text}' is not a size", expected="a*tokens+b*sequences+c")
            factor, symbol, number = match.groups()
            if number is not None:
                constant += int(number)
            elif symbols is not None and symbol not in symbols:
                raise PlanError(
                    f"'{text}' is not a size of this phase",
                    expected=f"a sum over {', '.join(symbols)}",
                    found=symbol,
                )
            else:
                terms.append(((symbol,), int(factor or 1)))
        return Extent(_sum(terms), constant)._checked(text)

    def _checked(self, text: int | str) -> Extent:
        """Refuse what no memory has, so that later sums stay within 64 bits."""
        parts = (self.constant, *(factor for _, factor in self.terms))
        if not all(0 <= part <= _LARGEST for part in parts):
            raise PlanError("a size is out of range", expected=f"0 to {_LARGEST}", found=str(text))
        return self

    def to_json(self) -> int | str:
        """As :meth:`parse` reads it; raises :class:`PlanError` for a product of symbols."""
        if not self.linear:
            raise PlanError("a size of an artifact is linear in the step", found=str(self))
        return str(self) if self.terms else self.constant


def _sum(terms: Iterable[tuple[Product, int]]) -> tuple[tuple[Product, int], ...]:
    """Like terms added up, sorted; those that vanish are left out."""
    total: dict[Product, int] = {}
    for names, factor in terms:
        total[names] = total.get(names, 0) + factor
    kept = ((names, factor) for names, factor in total.items() if factor)
    return tuple(sorted(kept, reverse=True))


Shape = tuple[Extent, ...]
