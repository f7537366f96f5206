"""attention: each spelling, each twist that must be refused, both roads of capture."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import torch

from glmc.capture.model import CaptureOptions
from glmc.errors import CaptureError
from glmc.ir import match as m
from glmc.ir.program import Program
from glmc.passes import attention, canonical, clean, qk_norm, qkv_merge, rms_norm, rope
from glmc.patterns.eager_attention import unscaled
from tests.support.models import (
    MODERN,
    captured,
    eager_logits,
    example_inputs,
    tiny_config,
    tiny_model,
    weights_of,
)
from tests.support.structure import structure
from tests.support.thinned import thinned
from tests.support.traced import conditions, trace
from tests.zoo import masked
from tests.zoo.attends import SPELLINGS, TWISTS, parts
from tests.zoo.attention import Parts, Sizes, inputs, traced

torch.set_num_threads(1)
BEFORE = (canonical.PASS, clean.PASS, rms_norm.PASS, rope.PASS, qk_norm.PASS)
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}
FAMILIES = ("glm", "glm4", "glm4_moe")
# Each of these runs no line of the passes, and takes no branch of theirs, that others don't.
SLOW_SPELLINGS = (
    *("eager_sliced", "enable_gqa", "repeat_interleave", "additive_sdpa"),
    *("eager_add_first", "eager_where", "scaled_queries", "safe_softmax"),
)
SLOW_TWISTS = ("window", "wide_window", "divided_window", "unmasked", "weak_sdpa")
SLOW_MASKED = ("_softmax",)


def close(new: torch.Tensor, old: torch.Tensor) -> bool:
    limit = TOLERANCE[old.dtype] * float(old.abs().max())
    return bool((new.float() - old.float()).abs().max() <= limit)


@cache
def first_spelling(sizes: Sizes) -> list[str]:
    """What the stock classes' attention becomes."""
    block = traced(parts(SPELLINGS["sdpa"].attend), sizes)
    assert len(block.apply(attention.PASS).matches) == 1
    return structure(block.program)


@pytest.mark.parametrize("name", thinned(SPELLINGS, SLOW_SPELLINGS))
def test_fires(name: str) -> None:
    attend, _, scaled = SPELLINGS[name]
    sizes = Sizes(scale=0.3125 if scaled else None)
    block = traced(parts(attend), sizes)
    before = block(*inputs())
    result = block.apply(attention.PASS)
    assert (len(result.matches), conditions(result)) == (1, [])
    (node,) = block.nodes("glmc.attention")
    assert node.args[3] == (sizes.scale or 16**-0.5)
    assert structure(block.program) == first_spelling(sizes)
    assert [m.op_name(value) for value in node.args[:3]] == ["aten.reshape"] * 3
    assert [m.shape(value)[2:] for value in node.args[:3]] == [(4, 16), (2, 16), (2, 16)]
    gone = ("permute", "expand", "arange", "le", "softmax", "matmul", "bmm", "where", "unsqueeze")
    assert not block.nodes(*(f"aten.{each}" for each in gone))
    assert close(block(*inputs())[0], before[0])
    text = block.text()
    again = block.apply(attention.PASS)
    assert (again.matches, again.near_misses, block.text()) == ([], [], text)


# Groups of heads, and another width, where eager has more casts; None: in the slow suite alone.
QUICK = {"sdpa": (torch.bfloat16, None, None), "eager": (None, None, torch.bfloat16)}
MANY = (Sizes(4, 1), Sizes(4, 4), Sizes(6, 2, 64, 32))


@pytest.mark.parametrize(
    ("name", "sizes", "dtype"),
    [
        pytest.param(
            *(name, sizes, dtype),
            id=f"{name}-{sizes}-{dtype}",
            marks=() if dtype == quick else pytest.mark.slow,
        )
        for name in QUICK
        for sizes, quick in zip(MANY, QUICK[name], strict=True)
        for dtype in TOLERANCE
    ],
)
def test_sizes_and_dtypes(name: str, sizes: Sizes, dtype: torch.dtype) -> None:
    block = traced(parts(SPELLINGS[name].attend), sizes, dtype)
    many = [inputs(), inputs(1, 1), inputs(3, 40)]
    before = [block(*each)[0] for each in many]
    assert len(block.apply(attention.PASS).matches) == 1
    for each, old in zip(many, before, strict=True):
        assert close(block(*each)[0], old)


def test_reads_rotated_values_where_rope_leaves_them() -> None:
    block = traced(Parts(attend=SPELLINGS["eager"].attend), before=(rope.PASS,))
    before = block(*inputs())[0]
    assert len(block.apply(attention.PASS).matches) == 1
    (node,) = block.nodes("glmc.attention")
    assert [m.op_name(value) for value in node.args[:3]] == ["glmc.rope"] * 2 + ["aten.reshape"]
    assert close(block(*inputs())[0], before)


@pytest.mark.parametrize("name", thinned(TWISTS, SLOW_TWISTS))
def test_refuses(name: str) -> None:
    attend, reason = TWISTS[name]
    block = traced(parts(attend))
    text = block.text()
    result = block.apply(attention.PASS)
    assert not result.matches
    assert len(conditions(result)) == 1
    assert reason in conditions(result)[0]
    assert block.text() == text


@pytest.mark.parametrize("name", thinned(masked.SPELLINGS, SLOW_MASKED))
def test_a_traced_one_says_what_a_query_gets_that_sees_nothing(name: str) -> None:
    """The mask is the program's own and may hide every key: then softmax gives NaN."""
    given = masked.operands(5)
    block = trace(masked.Masked(name), *given)
    block.program.phase = "traced"
    before = block(*given)[0]
    result = block.apply(attention.PASS)
    assert (len(result.matches), conditions(result)) == (1, [])
    (node,) = block.nodes("glmc.masked_attention")
    safe = masked.SPELLINGS[name].safe
    assert node.args[4:] == (0.25, False, safe)
    assert bool(before[1, :, -1].isnan().all()) is not safe
    torch.testing.assert_close(block(*given)[0], before, equal_nan=True)


def test_a_softmax_elsewhere_is_not_worth_telling() -> None:
    block = traced(Parts(attend=lambda block, q, k, v, tokens: q.softmax(-1)))
    result = block.apply(attention.PASS)
    assert (result.matches, result.near_misses) == ([], [])


def lowered(program: Program) -> Program:
    for each in (*BEFORE, attention.PASS, qkv_merge.PASS):
        each.run(program)
    return program


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(family, marks=() if family == "glm4_moe" else pytest.mark.slow)
        for family in FAMILIES
    ],
)
def roads(request: pytest.FixtureRequest) -> tuple[Any, Program, Program]:
    config = tiny_config(request.param)
    return config, captured(config), captured(config, options=CaptureOptions(marked=True))


@pytest.mark.long
def test_both_roads_of_capture_meet(roads: tuple[Any, Program, Program]) -> None:
    config, plain, marked = roads
    assert any(m.is_op(node, "glmc.marked_attention") for node in marked.graph.nodes)
    assert not any(m.is_op(node, "aten.arange", "aten.le") for node in marked.graph.nodes)
    eager, x = tiny_model(config), example_inputs()
    expected = eager_logits(eager, x)
    first, second = lowered(plain.copy()), lowered(marked.copy())
    for program in (first, second):
        got = program.run(x, weights_of(program, eager))[0]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    attentions = [structure(program) for program in (first, second)]
    if "Moe" in type(config).__name__:
        # The experts still differ: each road has its own node until the expert passes ran.
        kept = re.compile(r"glmc\.(attention|norm_rope)|qkv_proj")
        picked = [[re.sub(r"%\d+", "%", line) for line in lines] for lines in attentions]
        attentions = [[line for line in lines if kept.match(line)] for lines in picked]
    assert attentions[0] == attentions[1]


# The attention of glm and glm4 is spelled alike, and the two ways of calling it are of all.
STOCK = (("glm4", "sdpa"), ("glm4_moe", "eager"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        pytest.param(family, kind, marks=() if (family, kind) in STOCK else pytest.mark.slow)
        for family in FAMILIES
        for kind in ("sdpa", "eager")
    ],
)
def test_fires_on_the_stock_classes_in_bfloat16(family: str, kind: str) -> None:
    if kind == "eager" and not MODERN:
        pytest.skip("this transformers builds the eager mask from a tensor that export lifts")
    config = tiny_config(family)
    program = captured(config, torch.bfloat16, CaptureOptions(attention=kind))
    for each in BEFORE:
        each.run(program)
    result = attention.PASS.run(program)
    assert {match.layer for match in result.matches} == set(range(program.model.layers))
    assert (len(result.matches), result.near_misses) == (program.model.layers, [])


def test_markers_refuse_what_they_do_not_mean() -> None:
    from glmc.capture.markers import _attention

    q = torch.randn(1, 4, 3, 16)
    module = torch.nn.Module()
    refused: list[tuple[Any, dict[str, Any]]] = [
        (torch.ones(1, 1, 3, 3), {}),
        (None, {"dropout": 0.1}),
        (None, {"sliding_window": 128}),
    ]
    for mask, options in refused:
        with pytest.raises(CaptureError, match="no marker stands for"):
            _attention(module, q, q, q, mask, 0.25, **options)
    out, _ = _attention(module, q, q, q, None)
    expected = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
    torch.testing.assert_close(out, expected.transpose(1, 2))


@pytest.mark.parametrize(("dtype", "taken"), [(torch.float32, True), (torch.bool, False)])
def test_a_scale_that_makes_a_float_is_left_in_front(dtype: torch.dtype, taken: bool) -> None:
    graph = torch.fx.Graph()
    value = graph.placeholder("value")
    value.meta["val"] = torch.ones(2, dtype=dtype, device="meta")
    scaled = graph.call_function(torch.ops.aten.mul.Tensor, (value, 0.5))
    scaled.meta["val"] = torch.ones(2, device="meta")
    assert unscaled(scaled) == ((value, 0.5) if taken else (scaled, 1.0))
