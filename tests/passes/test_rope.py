"""rope: each spelling of tables and pairs, what must be refused, and bitwise equal results."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from glmc.ir import match as m
from glmc.passes import canonical, clean, rms_norm, rope
from tests.support.models import (
    captured,
    eager_logits,
    example_inputs,
    tiny_config,
    tiny_model,
    weights_of,
)
from tests.support.structure import structure
from tests.support.thinned import thinned
from tests.support.traced import conditions
from tests.zoo.attention import Parts, Sizes, inputs, traced
from tests.zoo.rotations import SCALED, SPELLINGS, TWISTS

torch.set_num_threads(1)
DTYPES = (torch.float32, torch.bfloat16)
BEFORE = (canonical.PASS, clean.PASS, rms_norm.PASS)
# Each of these runs no line of the passes, and takes no branch of theirs, that others don't.
SLOW = (
    *("neox_sections_of_tables", "neox_sections_of_angles", "neox_chunks", "neox_without_neg"),
    *("interleaved_matmul", "interleaved_wide_table", "interleaved_without_neg"),
)


@cache
def first_spelling(interleaved: bool) -> list[str]:
    """What the stock classes' block becomes whose pairs lie like this."""
    parts = next(each.parts for each in SPELLINGS.values() if each.interleaved is interleaved)
    block = traced(parts)
    assert len(block.apply(rope.PASS).matches) == 2
    return structure(block.program)


@pytest.mark.parametrize("name", thinned([*SPELLINGS, "scaled"], SLOW))
def test_fires(name: str) -> None:
    parts, interleaved, _, scaling = SPELLINGS.get(name, SCALED)
    block = traced(parts)
    before = block(*inputs())
    result = block.apply(rope.PASS)
    assert (len(result.matches), conditions(result)) == (2, [])
    assert (structure(block.program) == first_spelling(interleaved)) is (scaling == 1.0)
    for node, heads in zip(block.nodes("glmc.rope"), (4, 2), strict=True):
        assert m.shape(node)[2:] == (heads, 16)
        assert m.is_op(node.args[0], "aten.reshape"), "the permute in front must be gone"
        assert node.args[1].meta["input"] == "positions"  # type: ignore[union-attr]
        assert node.args[2].meta["weight"] == "frequencies"  # type: ignore[union-attr]
        assert node.args[3:] == (interleaved, scaling)
    assert not block.nodes("aten.cos", "aten.sin", "aten.neg", "aten.sub", "aten.stack")
    for old, new in zip(before, block(*inputs()), strict=True):
        assert torch.equal(old, new)
    text = block.text()
    again = block.apply(rope.PASS)
    assert (again.matches, again.near_misses, block.text()) == ([], [], text)


# None: the slow suite alone runs it, as it runs no other lines.
MANY = {
    Sizes(4, 1): None,
    Sizes(4, 4): None,
    Sizes(2, 2, 64, 32): torch.float32,
    Sizes(rotary_dim=16): torch.bfloat16,
    Sizes(rotary_dim=4): None,
}


@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        pytest.param(sizes, dtype, marks=() if dtype == quick else pytest.mark.slow)
        for sizes, quick in MANY.items()
        for dtype in DTYPES
    ],
    ids=str,
)
def test_sizes_and_dtypes(sizes: Sizes, dtype: torch.dtype) -> None:
    """Queries of one kind and keys of the other: each needs a trace only once."""
    pairs, halves = SPELLINGS["interleaved"].parts, SPELLINGS["neox"].parts
    block = traced(replace(halves, rotate_keys=pairs.rotate), sizes, dtype)
    many = [inputs(), inputs(1, 1), inputs(3, 200)]
    many[2][1].mul_(300)
    before = [block(*each)[0] for each in many]
    assert len(block.apply(rope.PASS).matches) == 2
    assert [node.args[3] for node in block.nodes("glmc.rope")] == [False, True]
    for each, old in zip(many, before, strict=True):
        assert torch.equal(old, block(*each)[0])


@pytest.mark.parametrize("name", TWISTS)
def test_refuses(name: str) -> None:
    parts, reason = TWISTS[name]
    block = traced(parts)
    text = block.text()
    result = block.apply(rope.PASS)
    assert not result.matches
    assert len(conditions(result)) == 2
    assert all(reason in condition for condition in conditions(result)), conditions(result)
    assert block.text() == text


def test_a_neg_or_sub_elsewhere_is_not_worth_telling() -> None:
    def attend(block: Any, q: Any, k: Any, v: Any, tokens: Any) -> Any:
        return torch.neg(q) - torch.cat((-q.exp(), -q), -1)[..., : q.shape[-1]]

    result = traced(Parts(attend=attend)).apply(rope.PASS)
    assert (len(result.matches), conditions(result)) == (1, [])


# The other way in which pairs lie, in float32, is that of the whole head below.
STOCK = [("glm4_moe", torch.bfloat16)]


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        pytest.param(family, dtype, marks=() if (family, dtype) in STOCK else pytest.mark.slow)
        for family in ("glm", "glm4", "glm4_moe")
        for dtype in DTYPES
    ],
    ids=str,
)
def test_fires_on_the_stock_classes(family: str, dtype: torch.dtype) -> None:
    config = tiny_config(family)
    program, eager = captured(config, dtype), tiny_model(config, dtype)
    for each in BEFORE:
        each.run(program)
    x = example_inputs()
    before = program.run(x, weights_of(program, eager))[0]
    result = rope.PASS.run(program)
    assert len(result.matches) == 2 * program.model.layers
    assert {match.layer for match in result.matches} == set(range(program.model.layers))
    assert not result.near_misses
    ropes = [node for node in program.graph.nodes if m.is_op(node, "glmc.rope")]
    assert {node.args[3] for node in ropes} == {family != "glm4_moe"}
    assert torch.equal(before, program.run(x, weights_of(program, eager))[0])


@pytest.mark.long
def test_a_whole_head_rotated_against_eager_logits() -> None:
    config = tiny_config("glm4", partial_rotary_factor=1.0, head_dim=64, num_key_value_heads=1)
    program, eager = captured(config), tiny_model(config)
    x = example_inputs()
    before = program.run(x, weights_of(program, eager))[0]
    for each in BEFORE:
        each.run(program)
    assert len(rope.PASS.run(program).matches) == 4
    after = program.run(x, weights_of(program, eager))[0]
    assert torch.equal(before, after)
    torch.testing.assert_close(after, eager_logits(eager, x), atol=1e-4, rtol=1e-4)
