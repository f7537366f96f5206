"""The facts of each op are true: each is shown by running the op."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Interpreter
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from glmc.ir.ops import OPS, SemanticOp, semantic_op
from glmc.ir.ops.aten import aten_facts
from glmc.ir.ops.facts import KEYS
from tests.ir.ops.operands import OURS, TOKENS, arguments, results
from tests.support.models import (
    eager_logits,
    example_inputs,
    tiny_config,
    tiny_model,
    weights_of,
)
from tests.support.packed import fused

PER_TOKEN = [name for name in OURS if OPS[name].facts.tokens is not None]
MIXING = [name for name in OURS if OPS[name].facts.tokens is None]


def tensors(named: dict[str, Any]) -> dict[str, Tensor]:
    return {name: item for name, item in named.items() if isinstance(item, Tensor)}


@pytest.mark.parametrize("name", PER_TOKEN)
def test_tokens_can_be_permuted_and_cut(name: str) -> None:
    op, named = OPS[name], arguments(name)
    whole = results(op, named)
    for rows in (torch.tensor([2, 0, 3, 1]), torch.tensor([1, 3])):
        part = {key: named[key][rows] for key in op.facts.tokens or ()}
        for before, after in zip(whole, results(op, {**named, **part}), strict=True):
            torch.testing.assert_close(after, before[rows])


@pytest.mark.parametrize("name", PER_TOKEN)
def test_no_operand_of_tokens_is_left_out(name: str) -> None:
    """All others are weights, whose sizes are those of one token's dimensions."""
    op, named = OPS[name], arguments(name)
    assert op.facts.tokens
    for key, item in tensors(named).items():
        assert (key in op.weights) != (key in op.facts.tokens)
        assert (item.shape[0] == TOKENS) == (key in op.facts.tokens)


@pytest.mark.parametrize("name", MIXING)
def test_an_op_without_tokens_mixes_them(name: str) -> None:
    """Cutting a step's rows from all that has them is no cut of the result, or impossible."""
    op, named = OPS[name], arguments(name)
    rows = torch.tensor([1, 0, 3, 2])
    axis = 1 if name in ("attention", "masked_attention") else 2 if "marked" in name else 0
    indexed = {
        key: item.index_select(axis, rows)
        for key, item in tensors(named).items()
        if key in ("q", "k", "v", "x", "qkv") and item.shape[axis] == TOKENS
    }
    before, after = results(op, named)[0], results(op, {**named, **indexed})[0]
    axis = 1 if name.endswith("ed_attention") or name == "attention" else 0
    if name == "join_qkv" or before.shape[axis] != TOKENS:
        return
    assert not torch.allclose(after, before.index_select(axis, rows), atol=1e-3)


@pytest.mark.parametrize("name", OURS)
def test_flops_are_those_that_torch_counts(name: str) -> None:
    op, named = OPS[name], arguments(name)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        results(op, named)
    meta = [item.to("meta") if isinstance(item, Tensor) else item for item in named.values()]
    assert op.flops(*meta) == counter.get_total_flops()


@pytest.mark.parametrize("name", OURS)
def test_bytes_are_those_of_the_elements_that_are_read_and_written(name: str) -> None:
    op, named = OPS[name], arguments(name)
    expected = sum(
        item.dtype.itemsize * read_elements(op, named, key) for key, item in tensors(named).items()
    )
    for item, before in zip(results(op, named), previous(named), strict=False):
        written = item.numel() if before is None else int((item != before).sum())
        expected += item.dtype.itemsize * written
    assert op.bytes_accessed(*named.values()) == expected


def previous(named: dict[str, Any]) -> tuple[Tensor | None, ...]:
    """What the results take over: of an op that writes the cache, the cache."""
    if "slot_mapping" in named:
        return None, named["k_cache"], named["v_cache"]
    return None, None


def read_elements(op: SemanticOp, named: dict[str, Any], key: str) -> int:
    """How many elements change a result when they are NaN or low; indices are all read. What
    stays in a cache is not read."""
    operand = named[key]
    if not operand.is_floating_point():
        return int(operand.numel())
    before = results(op, named)[: 1 if key.endswith("_cache") else None]
    count = 0
    for index in range(operand.numel()):
        changed = operand.clone()
        for value in (torch.nan, -1e9):
            changed.view(-1)[index] = value
            after = results(op, {**named, key: changed})
            if not all(map(torch.equal, before, after)):
                count += 1
                break
    return count


class Reductions(TorchDispatchMode):
    """Notes how long the sums of the ATen calls are, and whether one is a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[int] = set()
        self.softmax = False

    def __torch_dispatch__(
        self, func: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        facts = aten_facts(func._schema.name.replace("::", "."))
        if facts.summed is not None:
            operand, axis = facts.summed
            if func is torch.ops.aten.sum.dim_IntList:
                (axis,) = args[1]
            self.sizes.add(args[operand].shape[axis])
        self.softmax |= facts.softmax
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", OURS)
def test_the_summed_dimensions_are_those_that_torch_sums(name: str) -> None:
    op, named = OPS[name], arguments(name)
    if name == "moe_gate":  # the chosen scores, which are added up too, are no operand
        named |= {"normalize": False, "groups": 1}
    if name == "qkv_rope_cache":  # the norm of a head, whose order no packing changes
        named |= {"q_norm": None, "k_norm": None}
    with sdpa_kernel(SDPBackend.MATH), Reductions() as reductions:
        results(op, named)
    keys = 5 if name == "masked_attention" else 4
    declared = {
        keys if (operand, axis) == KEYS else named[operand].shape[axis]
        for operand, axis in op.facts.summed
    }
    assert declared == reductions.sizes
    assert (KEYS in op.facts.summed) == reductions.softmax


@pytest.mark.parametrize("name", [name for name in OURS if OPS[name].facts.scores])
def test_keys_reach_the_result_through_the_scores_alone(name: str) -> None:
    """Without the queries, other keys give the same."""
    op, named = OPS[name], arguments(name)
    queries, keys = op.facts.scores or ("", "")
    named[queries] = torch.zeros_like(named[queries])
    others = {**named, keys: 3 * named[keys] + 1}
    torch.testing.assert_close(results(op, named)[0], results(op, others)[0])


@pytest.mark.parametrize("name", [name for name in OURS if OPS[name].facts.chosen])
def test_entries_that_no_index_chooses_are_not_read(name: str) -> None:
    op, named = OPS[name], arguments(name)
    for index, operands in op.facts.chosen.items():
        assert named[index].dim() == 2
        assert all(len(set(row)) == len(row) for row in named[index].tolist())
        ids = torch.zeros_like(named[index]) + torch.arange(named[index].shape[1])
        before = results(op, {**named, index: ids})
        for operand in operands:
            for entry, read in ((named[operand].shape[0] - 1, False), (0, True)):
                other = named[operand].clone()
                other[entry] += 1
                after = results(op, {**named, index: ids, operand: other})
                same = all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
                assert same != read


@pytest.mark.parametrize("name", OURS)
def test_operands_of_other_dtypes_are_those_declared(name: str) -> None:
    """In bfloat16, ``float32`` operands stay, ``any_dtype`` ones may be wider without a change
    but for their own rounding; the results say the dtypes."""
    op, named = OPS[name], arguments(name, torch.bfloat16)
    for key, item in tensors(named).items():
        other = item.is_floating_point() and item.dtype != torch.bfloat16
        assert other == (key in (*op.facts.float32, "inverse_frequencies"))
    free = {key: named[key].float() for key in op.facts.any_dtype}
    for narrow, wide in zip(results(op, named), results(op, {**named, **free}), strict=True):
        assert torch.equal(narrow, wide)


class Counting(Interpreter):
    """Runs a program and adds up what its fused ops count."""

    flops = 0

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        op = semantic_op(target)
        if op is not None:
            self.flops += op.flops(*args)
        return super().call_function(target, args, kwargs)


@pytest.mark.parametrize("family", ["glm4", "glm4_moe"])
def test_the_flops_of_a_fused_model_are_those_of_the_eager_one(family: str) -> None:
    """The same multiplications, however many nodes they are."""
    config = tiny_config(family)
    model, inputs = tiny_model(config), example_inputs()
    model.config._experts_implementation = "eager"  # torch does not count grouped products
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        eager_logits(model, inputs)
    program = fused(config)
    values = {**weights_of(program, model), **inputs}
    counting = Counting(program.graph_module)
    placeholders = program.placeholders()
    counting.run(*(values[node.meta.get("weight") or node.meta["input"]] for node in placeholders))
    assert counting.flops == counter.get_total_flops()
