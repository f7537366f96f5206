"""What rebuilds the graph whole is accounted for and evaluated, and what differs is an error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.fx import Node

from glmc.errors import GlmcError, InternalError, LoweringError, VerificationError
from glmc.ir import match as m
from glmc.ir.accounting import accounting
from glmc.ir.instances import FULL, SMALL
from glmc.ir.program import Program
from glmc.passes import kv_cache, specialise
from glmc.passes.kv_cache import KvCache
from glmc_runtime.format.phases import DECODE, PREFILL, PhaseKey
from tests.support.models import tiny_config
from tests.support.packed import BLOCK, fused, paged

aten = torch.ops.aten


@pytest.fixture(scope="module")
def stateless() -> Program:
    return fused(tiny_config("glm4_moe"))


@pytest.fixture(scope="module")
def cached() -> Program:
    return paged(tiny_config("glm4_moe"))


def phases_of(program: Program) -> dict[PhaseKey, Program]:
    prefill, decode = specialise.prefill(program), specialise.decode(program)
    return {PREFILL.key: prefill, DECODE.key: decode}


def nodes(program: Program, name: str) -> list[Node]:
    return [node for node in program.graph.nodes if m.is_op(node, name)]


def test_layers_that_are_spelled_alike_are_run_once(stateless: Program, cached: Program) -> None:
    result = KvCache(BLOCK).run(stateless.copy())
    assert (len(result.matches), result.evaluations) == (3, [FULL])
    assert result.evaluation_seconds > 0
    phases = phases_of(cached)
    assert specialise.require_same(cached, phases).evaluations == [FULL, FULL]


def test_a_phase_that_nobody_evaluates_is_an_error(cached: Program) -> None:
    phases = {**phases_of(cached), PhaseKey("verify", 0): cached}
    with pytest.raises(InternalError, match="how to evaluate the phases"):
        specialise.require_same(cached, phases)


def test_a_layer_of_another_kind_is_run_too(stateless: Program) -> None:
    program = stateless.copy()
    attention = nodes(program, "glmc.attention")[1]
    attention.update_arg(3, 0.5)
    assert KvCache(BLOCK).run(program).evaluations == [FULL, FULL]


def test_the_head_of_a_large_vocabulary_is_run_small() -> None:
    program = paged(tiny_config("glm", num_hidden_layers=1, vocab_size=2**13))
    phases = phases_of(program)
    assert specialise.require_same(program, phases).evaluations == [SMALL, FULL]


def test_an_argument_that_paging_does_not_know_is_refused(stateless: Program) -> None:
    program = stateless.copy()
    part = m.operand(m.operand(nodes(program, "glmc.attention")[1], 2), 0)
    assert m.is_op(part, "aten.slice")
    part.kwargs = {"step": 2}
    with pytest.raises(LoweringError, match=r"argument .step. = 2 of aten.slice is not"):
        KvCache(BLOCK).run(program)


def test_a_matcher_that_forgets_to_read_is_refused(
    stateless: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = kv_cache.match

    def forgetful(attention: Node, program: Program) -> kv_cache.Layer:
        with accounting():  # what is read in here is noted elsewhere
            return real(attention, program)

    monkeypatch.setattr(kv_cache, "match", forgetful)
    with pytest.raises(LoweringError, match=r"of glmc.attention is not read by this pass"):
        KvCache(BLOCK).run(stateless.copy())


def other_table(node: Node) -> None:
    with node.graph.inserting_before(node):
        table = node.graph.call_function(aten.neg.default, (node.args[3],))
    table.meta = {**node.args[3].meta, "id": "other"}  # type: ignore[union-attr]
    del table.meta["input"]
    node.update_arg(3, table)


def bias_by_keyword(node: Node) -> None:
    node.args, node.kwargs = node.args[:2], {"bias": node.args[1]}


@pytest.mark.parametrize(
    ("op", "edit", "phase", "reason"),
    [
        (*("glmc.prefill_attention", other_table), specialise.decode, "must be the step's block_t"),
        (*("glmc.linear", bias_by_keyword), specialise.prefill, "argument 'bias' = "),
    ],
    ids=["table", "keyword"],
)
def test_an_argument_that_a_phase_would_lose_is_refused(
    cached: Program,
    op: str,
    edit: Callable[[Node], None],
    phase: Callable[[Program], Program],
    reason: str,
) -> None:
    program = cached.copy()
    edit(nodes(program, op)[-1])
    with pytest.raises(LoweringError) as caught:
        phase(program)
    assert reason in str(caught.value.expected)


def wrong_rows(prefill: Program, decode: Program) -> None:
    """The row after the last, which is the first of the next sequence."""
    select = nodes(prefill, "glmc.select_rows")[0]
    with select.graph.inserting_before(select):
        rows = select.graph.call_function(aten.sub.Tensor, (select.args[1], 1))
    rows.meta = {**select.args[1].meta, "id": "rows"}  # type: ignore[union-attr]
    select.update_arg(1, rows)


def wrong_scale(prefill: Program, decode: Program) -> None:
    attention = nodes(decode, "glmc.decode_attention")[1]
    attention.update_arg(5, attention.args[5] * 1.01)  # type: ignore[operator]


def keys_as_values(prefill: Program, decode: Program) -> None:
    attention = nodes(decode, "glmc.decode_attention")[1]
    attention.update_arg(2, attention.args[1])


@pytest.mark.parametrize(
    ("edit", "place"),
    [
        (wrong_rows, "pass specialise, lm_head"),
        (wrong_scale, "pass specialise, model.layers.1.self_attn"),
        (keys_as_values, "pass specialise, model.layers.1.self_attn"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_phase_that_computes_something_else_is_an_error(
    cached: Program, edit: Callable[[Program, Program], None], place: str
) -> None:
    phases = phases_of(cached)
    edit(phases[PREFILL.key], phases[DECODE.key])
    with pytest.raises(GlmcError) as caught:
        specialise.require_same(cached, phases)
    assert isinstance(caught.value, VerificationError)
    assert (caught.value.place or "").startswith(place)
    assert "off by" in str(caught.value.found)
