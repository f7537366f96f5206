"""Sizes of a traced program: Dynamo's symbols as extents, and their values in a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy
from torch import SymFloat, SymInt

from glmc_runtime.format.extent import Extent


@dataclass
class TracedSizes:
    """Reads sizes as extents over *atoms*: symbols, and whatever is no sum or product of them.

    ``atoms`` maps the name of an atom to its expression in Dynamo's symbols. Those in ``fractions``
    are no sizes but numbers that follow them, such as a scale.
    """

    atoms: dict[str, sympy.Expr] = field(default_factory=dict)
    fractions: set[str] = field(default_factory=set)

    def extent(self, size: int | SymInt) -> Extent:
        """A size as a sum of products of atoms."""
        if isinstance(size, int):
            return Extent(constant=size)
        return self.read(size.node.expr)

    def number(self, value: SymFloat) -> Extent:
        """A number that follows the sizes, as an extent that has its value."""
        extent = self._atom(value.node.expr)
        self.fractions.add(str(value.node.expr))
        return extent

    def read(self, expression: sympy.Expr) -> Extent:
        if expression.is_Integer:
            return Extent(constant=int(expression))
        expanded = sympy.expand(expression)
        if isinstance(expanded, sympy.Add):
            total = Extent()
            for term in expanded.args:
                total += self._term(term)
            return total
        return self._term(expanded)

    def _term(self, term: sympy.Expr) -> Extent:
        factor, rest = term.as_coeff_Mul()
        if not factor.is_Integer or factor < 0:
            return self._atom(term)
        if rest == 1:
            return Extent(constant=int(factor))
        total = Extent(constant=1)
        for base in rest.args if isinstance(rest, sympy.Mul) else (rest,):
            total = total.times(self._atom(base))
        return total * int(factor)

    def _atom(self, expression: sympy.Expr) -> Extent:
        name = str(expression)
        self.atoms[name] = expression
        return Extent((((name,), 1),))

    def evaluator(self, symbols: tuple[str, ...]) -> Callable[[tuple[int, ...]], dict[str, Any]]:
        """From the values of ``symbols`` to the values of all atoms."""
        names = list(self.atoms)
        arguments = [sympy.Symbol(name, integer=True) for name in symbols]
        known = {str(argument): argument for argument in arguments}
        functions: list[Any] = []
        for expression in self.atoms.values():
            renamed = expression.subs(
                {symbol: known[str(symbol)] for symbol in expression.free_symbols}
            )
            functions.append((expression in known.values(), renamed))

        def values(known: tuple[int, ...]) -> dict[str, Any]:
            at: Mapping[Any, int] = dict(zip(arguments, known, strict=True))
            sizes: dict[str, Any] = {}
            for name, (_, expression) in zip(names, functions, strict=True):
                if name in self.fractions:
                    sizes[name] = float(expression.subs(at))
                else:
                    sizes[name] = at[expression] if expression in at else int(expression.subs(at))
            return sizes

        return values
