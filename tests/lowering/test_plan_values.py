"""The table of a plan's values: each of them once, where it is and which tensors of modules."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import product
from math import prod
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch.fx import Node

from glmc.backends import target_by_name
from glmc.backends.kunlun.rules_dense import add_rms_norm
from glmc.ir.identity import IDENTITY, Identity, Part, hand_up
from glmc.ir.ops.norms import ADD_RMS_NORM
from glmc.ir.program import Program
from glmc.lowering.lower import Lowered, lower
from glmc.lowering.target import Emitter, LoweringOptions, Op, Target
from glmc.passes.shard import Shard
from glmc.pipeline import runner
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.tensor_key import INPUT, OUTPUT, TensorKey, parse_key
from glmc_runtime.format.values import PlanValue, Values, values_from_json, values_to_json
from tests.backends.planned import WIDTH, Built, lowered
from tests.support.models import captured, tiny_config
from tests.support.thinned import crossed, thinned

aten = torch.ops.aten


def key(module: str, kind: str = OUTPUT, call: int = 0) -> TensorKey:
    return TensorKey(module, "Linear", call, kind, "0")


def neg(op: Op, emit: Emitter) -> None:
    emit.call("toy.negate", writes=("out",), x=op.tensor("x"), out=emit.result())


def columns(op: Op, emit: Emitter) -> None:
    emit.call("toy.columns", writes=("out",), x=op.tensor("x"), out=emit.result())


TOY = Target(
    "toy",
    MappingProxyType(
        {"aten.neg": neg, "aten.slice": columns, "add_rms_norm": add_rms_norm},
    ),
    "blocks_heads_tokens",
    (torch.float32,),
)


def as_captured(node: Node, name: str, *keys: TensorKey) -> None:
    node.meta[IDENTITY] = Identity((name,), keys)


def toy(built: Built, output: Node) -> tuple[PlanValue, ...]:
    return lowered(TOY, built.program(output)).values


def test_a_value_has_its_place_and_its_keys_outputs_first() -> None:
    built = Built()
    first = built.call(aten.neg.default, built.input("hidden", "tokens", WIDTH))
    second = built.call(aten.neg.default, first)
    as_captured(first, "then", key("b", INPUT), key("a"))
    first.meta.update(module="a", layer=3, source="model.py:1 forward", passes=("one",))
    rows = toy(built, second)
    assert [(row.call, row.node, row.op) for row in rows] == [
        (0, "node1", "aten.neg"),
        (1, "node2", "aten.neg"),
    ]
    assert rows[0].keys == (key("a"), key("b", INPUT))
    assert (rows[0].captured, rows[0].module, rows[0].layer) == ("then", "a", 3)
    assert (rows[0].dtype, rows[0].shape) == ("float32", ("tokens", str(WIDTH)))
    assert (rows[0].source, rows[0].passes) == ("model.py:1 forward", ("one",))
    assert rows[0].buffer is not None and rows[0].cache is None
    assert rows[1].captured is None
    assert str(rows[1].keys[0]) == "neg.0.forward_output.0"


def test_ops_of_one_module_are_counted() -> None:
    built = Built()
    node = built.input("hidden", "tokens", WIDTH)
    for _ in range(3):
        node = built.call(aten.neg.default, node)
        node.meta["module"] = "a"
    as_captured(node.args[0], "known", key("a"))  # type: ignore[arg-type]
    names = [str(row.keys[0]) for row in toy(built, node)]
    assert names == ["a.neg.0.forward_output.0", str(key("a")), "a.neg.1.forward_output.0"]


def test_a_view_is_the_value_that_it_is_a_view_of() -> None:
    built = Built()
    whole = built.call(aten.neg.default, built.input("hidden", "tokens", WIDTH))
    heads = built.call(aten.reshape.default, whole, [-1, 2, WIDTH // 2])
    as_captured(heads, "heads", key("a", INPUT))
    (row, _) = toy(built, built.call(aten.neg.default, heads))
    assert row.keys == (key("a", INPUT),)
    assert row.captured is None  # that has another shape


def test_columns_are_parts_where_they_are_no_value_of_their_own() -> None:
    built = Built()
    whole = built.call(aten.neg.default, built.input("hidden", "tokens", WIDTH))
    part = built.call(aten.slice.Tensor, whole, 1, 2, 5)
    as_captured(part, "part", key("m.a"))
    known = Part(5, 8, ("gone",), (key("m.b"), key("m.b", INPUT)))
    whole.meta[IDENTITY] = Identity(parts=(known, known))
    row, own = toy(built, part)
    assert own.keys == (key("m.a"),)
    assert [(each.start, each.stop, each.captured) for each in row.parts] == [(5, 8, "gone")]
    assert row.parts[0].keys == (key("m.b"), key("m.b", INPUT))
    assert str(row.keys[0]) == "m.neg.0.forward_output.0"


def test_a_result_that_no_node_reads_is_there_where_the_model_has_it() -> None:
    built = Built()
    x, y = (built.input(name, "tokens", WIDTH) for name in ("x", "y"))
    both = built.call(ADD_RMS_NORM.overload, x, y, built.weight("w", WIDTH), 1e-5)
    total = built.item(both, 1)
    as_captured(total, "total", key("layer"))
    hand_up(total)
    built.graph.erase_node(total)
    normed, unread = toy(built, built.item(both, 0))
    assert (normed.node, unread.node) == ("node1", "node1[1]")
    assert (unread.call, unread.keys, unread.captured) == (normed.call, (key("layer"),), "total")
    assert unread.buffer != normed.buffer


FAMILIES = ("glm", "glm4", "glm4_moe")
TARGETS = ("cpu", "xpu", "cuda")


@cache
def paged(
    family: str, dtype: torch.dtype, ranks: int, heads: tuple[int, int], head_dim: int
) -> tuple[Program, Mapping[PhaseKey, Program]]:
    """What was captured and its phases, which no target changes."""
    sizes = dict(zip(("num_attention_heads", "num_key_value_heads"), heads, strict=True))
    program = captured(tiny_config(family, head_dim=head_dim, **sizes), dtype)
    before = program.copy()
    dealt = Shard(ranks) if ranks > 1 else None
    return before, runner.to_paged(program, 16, runner.fuse(program), dealt=dealt).programs


def compiled(
    family: str,
    target: str,
    dtype: torch.dtype,
    ranks: int = 1,
    heads: tuple[int, int] = (2, 1),
    head_dim: int = 32,
) -> tuple[Program, dict[PhaseKey, Lowered]]:
    before, phases = paged(family, dtype, ranks, heads, head_dim)
    chosen = target_by_name(target)
    profile = "P-A" if target == "xpu" else None
    options = LoweringOptions(dtype, 96, 16, 8, 32, profile, ranks=ranks)
    made = {
        name: lower(runner.merge(each, chosen.rules)[0], chosen, options)
        for name, each in phases.items()
    }
    return before, made


@pytest.mark.parametrize(
    ("family", "target", "dtype"),
    thinned(
        product(FAMILIES, TARGETS, [torch.float32, torch.bfloat16]),
        long=[
            *(("glm", target, torch.float32) for target in TARGETS),
            *(("glm4", target, torch.bfloat16) for target in TARGETS),
            *(("glm4_moe", target, torch.float32) for target in TARGETS),
        ],
    ),
)
def test_what_holds_of_every_table(family: str, target: str, dtype: torch.dtype) -> None:
    before, phases = compiled(family, target, dtype)
    fakes = {node.meta["id"]: node.meta["val"] for node in before.graph.nodes}
    for made in phases.values():
        rows, plan = made.values, made.plan
        assert len({row.node for row in rows}) == len(rows)
        keys = [each for row in rows for each in (*row.keys, *_of_parts(row))]
        assert len(set(keys)) == len(keys)
        assert all(parse_key(str(each)) == each for each in keys)
        buffers = {buffer.id: buffer for buffer in plan.buffers}
        for row in rows:
            assert row.keys
            assert 0 <= row.call < len(plan.calls)
            assert row.cache is not None or buffers[row.buffer].first <= row.call
            width = prod(int(size) for size in row.shape[1:])
            if row.captured is not None:
                assert _width(fakes[row.captured]) == width, row.node
                assert str(fakes[row.captured].dtype) == f"torch.{row.dtype}", row.node
            for part in row.parts:
                assert (
                    part.captured is None or _width(fakes[part.captured]) == part.stop - part.start
                )
        outputs = {each for each in keys if each.kind == OUTPUT}
        assert TensorKey("lm_head", "Linear", 0, OUTPUT, "0") in outputs
        layers = [each for each in outputs if each.class_name.endswith("DecoderLayer")]
        assert len(layers) == before.model.layers
    values = Values({name.phase: made.values for name, made in phases.items()})
    assert values_from_json(values_to_json(values)) == values


@pytest.mark.parametrize(
    ("family", "ranks", "heads"),
    crossed(
        FAMILIES,
        [2, 4, 3],
        [(4, 2), (6, 3)],
        quick=[("glm4_moe", 2, (4, 2)), ("glm4", 4, (4, 2))],
        long=[("glm4_moe", 4, (6, 3)), ("glm", 3, (6, 3))],
    ),
)
def test_shares_of_ranks_are_told_and_are_together_what_one_rank_has(
    family: str, ranks: int, heads: tuple[int, int]
) -> None:
    # Four heads of 16 are what other tests trace.
    before, one = compiled(family, "cpu", torch.float32, 1, heads, 16)
    _, several = compiled(family, "cpu", torch.float32, ranks, heads, 16)
    fakes = {node.meta["id"]: node.meta["val"] for node in before.graph.nodes}
    for phase, made in several.items():
        widths = {row.node: _widths(row) for row in one[phase].values}
        found: set[TensorKey] = set()
        for row in made.values:
            found |= {*row.keys, *_of_parts(row)}
            if row.dealt is not None and row.dealt.axis is not None:
                assert len(row.dealt.runs) == ranks
            if row.node in widths:
                assert _widths(row) == widths[row.node], row.node
            if row.captured is not None:
                assert prod(_widths(row)) == _width(fakes[row.captured])
        shared = {row.op: row.dealt for row in made.values if row.dealt is not None}
        assert {"linear", "qkv_rope_cache", "local_embedding"} <= {*shared}
        of_modules = {
            key
            for row in one[phase].values
            for key in (*row.keys, *_of_parts(row))
            if key.class_name[0].isupper()
        }
        assert of_modules <= found
    values = Values({name.phase: made.values for name, made in several.items()})
    assert values_from_json(values_to_json(values)) == values


def _widths(row: PlanValue) -> list[int]:
    """The dimensions of a token's value, of what ranks have together."""
    sizes = list(row.shape)
    if row.dealt is not None and row.dealt.axis is not None:
        sizes[row.dealt.axis] = str(row.dealt.entries)
    return [int(size) for size in sizes[1:]]


def _of_parts(row: PlanValue) -> list[TensorKey]:
    return [each for part in row.parts for each in part.keys]


def _width(fake: Any) -> int:
    """Numbers of a token."""
    return prod(size for size in fake.shape if isinstance(size, int))
