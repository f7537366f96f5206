"""Every kernel that an artifact may name has a schema that says what each size is."""

from __future__ import annotations

import ast
import importlib
from typing import Any

import pytest

from glmc_runtime import kernels
from glmc_runtime.errors import PlanError
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.phases import Order, real_name
from glmc_runtime.kernels.expressions import ANY, UnknownSizeError, expression, pattern
from glmc_runtime.kernels.interpreter import triton_found
from glmc_runtime.kernels.schema import KernelSchema, flag, integer, schema, tensor, written
from glmc_runtime.kernels.vendor_functions import VENDOR_FUNCTIONS

FAMILIES = ("aten", "collective", "cpu", "router", *(["cuda"] if triton_found() else []))

ORDER = Order(("tokens", "sequences"), (("sequences", "tokens"),))


def own_schemas() -> dict[str, KernelSchema | None]:
    for family in FAMILIES:
        importlib.import_module(f"glmc_runtime.kernels.{family}")
    names = [name for name in kernels._BINDERS if name.partition(".")[0] in FAMILIES]
    return {name: kernels.schema_of(name) for name in names}


def all_schemas() -> dict[str, KernelSchema]:
    found = {name: one for name, one in own_schemas().items() if one is not None}
    for name, row in VENDOR_FUNCTIONS.items():
        found |= {f"{name} {profile}": one.schema for profile, one in row.variants.items()}
    return found


def test_each_kernel_has_a_schema() -> None:
    missing = [name for name, one in own_schemas().items() if one is None]
    assert not missing
    assert len(all_schemas()) > 60


def names_in(text: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}


def test_every_size_has_a_tensor_or_a_number_that_fixes_it() -> None:
    for name, one in all_schemas().items():
        fixed = {argument.name for argument in one.arguments if argument.kind == "integer"}
        used: set[str] = set()
        for argument in one.arguments:
            shape = argument.shape
            if shape is not None:
                fixed |= {size for size in shape.names if size is not None}
                used |= {word for size in shape.sizes for word in names_in(size.text)}
            used |= names_in("" if argument.below is None else argument.below.text)
            used |= names_in("" if argument.equals is None else argument.equals.text)
        for relation in one.relations:
            used |= names_in(relation.text)
        arguments = {argument.name for argument in one.arguments}
        assert used <= fixed | arguments | {ANY, "step"}, (name, used - fixed - arguments)


def test_what_a_schema_points_at_is_there() -> None:
    for name, one in all_schemas().items():
        known = set(one.by_name)
        pointed = {other for pair in one.aliases for other in pair} | set(one.broadcast)
        pointed |= {other for group in one.together for other in group}
        for argument in one.arguments:
            for other in (argument.like, argument.source, argument.of):
                pointed |= set() if other is None else {other.removesuffix("_0")}
        assert pointed <= known, name
        assert any(argument.writes for argument in one.arguments), name


def test_only_what_says_what_it_holds_is_an_index_of_the_cache() -> None:
    tables = ("block_tables", "block_table", "slot_mapping", "context_lengths", "cu_seqlens_q")
    for name, one in all_schemas().items():
        for table in tables:
            argument = one.by_name.get(table)
            assert argument is None or argument.holds, (name, table)


def test_sizes_are_evaluated() -> None:
    tokens, three = Extent.of(tokens=1), Extent(constant=3)
    scope: dict[str, Any] = {"n": tokens, "k": three, "x.size": tokens * 6, "given": False}
    assert expression("2*n*k").evaluate(scope, ORDER) == tokens * 6
    assert expression("(n+1)*k").evaluate(scope, ORDER) == Extent.of(tokens=3, constant=3)
    for text, holds in (
        ("x.size == 2*n*k", True),
        ("k % 2 == 0", False),
        ("x.size % (n*k) == 0", True),
        ("x.size % (4*n) == 0", False),
        ("k <= n*3", True),
        ("n <= k", False),
        ("given or k == 3", True),
        ("not given", True),
        ("given and nobody == 1", False),
    ):
        assert expression(text).evaluate(scope, ORDER) is holds, text
    for text in ("nobody", "k % 0", "given+1"):
        with pytest.raises(UnknownSizeError):
            expression(text).evaluate(scope, ORDER)
    assert expression("n*n").evaluate(scope, ORDER) == Extent(((("tokens", "tokens"), 1),))


@pytest.mark.parametrize(
    "text", ["__import__('os')", "n.__class__.x", "[n]", "n if k else 1", "n -", "-n", "1.5"]
)
def test_an_expression_is_sizes_and_nothing_else(text: str) -> None:
    with pytest.raises(PlanError, match="no expression"):
        expression(text)


def test_a_size_is_at_most_another_in_every_step() -> None:
    tokens, sequences = Extent.of(tokens=1), Extent.of(sequences=1)
    at_most = ORDER.at_most
    assert at_most(sequences, tokens) and not at_most(tokens, sequences)
    assert at_most(Extent(constant=1), sequences) and not at_most(Extent(constant=2), tokens)
    real = tokens.renamed({"tokens": real_name("tokens")}) * 2
    assert at_most(real, real) and not at_most(real, Extent(constant=9))


def test_shapes_are_read() -> None:
    read = pattern("...rows 2*width k")
    assert read.leading == "rows" and read.names == (None, "k")
    assert pattern("... k").leading == "" and pattern("k").leading is None


def test_arguments_in_numbered_parts() -> None:
    one = schema(tensor("x", "n"), written("out", "n", numbered=True))
    assert one.argument("out_0") is one.argument("out_12") is one.by_name["out"]
    for name in ("out", "out_", "out_01", "out_-1", "out_64", "out_1000000000000", "x_0", "y"):
        assert one.argument(name) is None
    with pytest.raises(PlanError, match="twice"):
        schema(flag("x"), integer("x"))
