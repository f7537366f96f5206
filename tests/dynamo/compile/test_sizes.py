"""Sizes of Dynamo as extents: sums and products of symbols, everything else an atom."""

from __future__ import annotations

import pytest
import sympy

from glmc.dynamo.compile.sizes import TracedSizes
from glmc_runtime.errors import PlanError
from glmc_runtime.format.extent import Extent

s, t = sympy.symbols("s t", integer=True, positive=True)


@pytest.mark.parametrize(
    "expression",
    [s, s + 1, 3 * s * t + 2 * t + 7, (s + 1) * (t + 2), s**2, s // 2 + t, sympy.Max(s, t) * 2],
)
def test_an_extent_has_the_value_of_its_expression(expression: sympy.Expr) -> None:
    sizes = TracedSizes()
    extent = sizes.read(expression)
    values = sizes.evaluator(("s", "t"))((5, 11))
    assert extent.evaluate(values) == int(expression.subs({s: 5, t: 11}))


def test_a_number_is_a_constant() -> None:
    assert TracedSizes().read(sympy.Integer(4)) == Extent(constant=4)
    assert TracedSizes().extent(9) == Extent(constant=9)


def test_sums_and_products_of_extents() -> None:
    one = Extent.of(1, a=2)
    two = Extent.of(b=3)
    sizes = {"a": 4, "b": 5}
    assert (one + two).evaluate(sizes) == 9 + 15
    assert one.times(two).evaluate(sizes) == 9 * 15
    assert (one * 3).evaluate(sizes) == 27
    assert str(one.times(two)) == "3*b+6*a*b"
    assert one.moves
    assert not Extent(constant=3).moves


def test_sizes_of_an_artifact_do_not_multiply() -> None:
    product = Extent.of(tokens=1).times(Extent.of(sequences=1))
    assert not product.linear
    with pytest.raises(PlanError, match="linear in the step"):
        product.to_json()
    assert Extent.of(tokens=2).times(Extent(constant=3)) == Extent.of(tokens=6)
