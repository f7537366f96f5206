"""shard: all ranks together compute what one did, whatever divides and whatever does not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from glmc.errors import LoweringError
from glmc.ir import match as m
from glmc.ir.program import Program
from glmc.passes import specialise
from glmc.passes.shard import Shard, sharded
from glmc.presets.matches import expected_collectives
from tests.support.models import tiny_config, tiny_model
from tests.support.packed import Batch, fused, give_caches, paged
from tests.support.ranked import RankedBatch
from tests.support.thinned import crossed, thinned

TOLERANCE = 2e-5
HEADS = {"num_attention_heads": 6, "num_key_value_heads": 3}


def ops(program: Program) -> Counter[str]:
    return Counter(m.op_name(node).removeprefix("glmc.") for node in program.graph.nodes)


def dealt(config: Any, ranks: int, expert_parallel: bool = False) -> Program:
    program = paged(config)
    Shard(ranks, expert_parallel).run(program)
    return program


@pytest.mark.parametrize(
    ("family", "ranks", "expert_parallel"),
    crossed(
        ["glm", "glm4", "glm4_moe"],
        [2, 3, 4, 8],
        [False, True],
        quick=[
            ("glm", 2, False),
            ("glm4", 4, False),
            ("glm4_moe", 2, True),
            ("glm4_moe", 3, False),
            ("glm4_moe", 8, True),
        ],
    ),
)
def test_prefill_in_chunks_then_decode_equals_each_sequence_alone(
    family: str, ranks: int, expert_parallel: bool
) -> None:
    config = tiny_config(family)
    batch = RankedBatch(tiny_model(config), (9, 4, 24))
    expected = batch.alone(fused(config))
    program = dealt(config, ranks, expert_parallel)
    prefill = give_caches(specialise.prefill(program))
    decode = give_caches(specialise.decode(program))
    for phase, counts in [(prefill, (3, 2, 8)), (prefill, (4, 1, 12)), (decode, (1, 1, 1))]:
        logits = batch.step(phase, counts)
        assert logits.shape == (3, 160)
        wanted = [rows[done - 1] for rows, done in zip(expected, batch.done, strict=True)]
        torch.testing.assert_close(logits, torch.stack(wanted), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("overrides", "ranks"),
    [
        pytest.param(HEADS, 2, id="3-kv-heads-on-2"),
        pytest.param(HEADS, 4, id="3-kv-heads-on-4"),
        pytest.param(
            {"num_attention_heads": 4, "num_key_value_heads": 1},
            8,
            id="half-a-head",
            marks=pytest.mark.long,
        ),
        pytest.param({"tie_word_embeddings": True, "vocab_size": 161}, 2, id="tied"),
        pytest.param({"intermediate_size": 97}, 3, id="width-97-on-3", marks=pytest.mark.long),
        pytest.param({"attention_bias": False}, 2, id="no-bias", marks=pytest.mark.long),
    ],
)
def test_what_does_not_divide(overrides: dict[str, Any], ranks: int) -> None:
    assert_equals_the_whole(tiny_config("glm", **overrides), Shard(ranks))


def assert_equals_the_whole(config: Any, shard: Shard) -> None:
    model = tiny_model(config)
    alone, together = Batch(model, (7, 3)), RankedBatch(model, (7, 3))
    program = paged(config)
    expected = alone.step(give_caches(program.copy()), (7, 3))
    shard.run(program)
    logits = together.step(give_caches(program), (7, 3))
    torch.testing.assert_close(logits, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("experts", "ranks"), thinned([(4, 8), (4, 6), (10, 4)], long=[(4, 6), (10, 4)])
)
def test_experts_that_do_not_divide(experts: int, ranks: int) -> None:
    """Of fewer experts than ranks some have none, also between those that have one."""
    fields = {"n_routed_experts": experts, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 3}
    assert_equals_the_whole(tiny_config("glm4_moe", **fields), Shard(ranks, expert_parallel=True))


def test_a_vocabulary_of_fewer_tokens_than_ranks_is_refused() -> None:
    program = paged(tiny_config("glm", vocab_size=3, eos_token_id=[1]))
    with pytest.raises(LoweringError, match="a vocabulary of 3 can't be dealt to 4 ranks"):
        sharded(program, 4)


@pytest.mark.parametrize(
    ("family", "expert_parallel"), [("glm4", False), ("glm4_moe", False), ("glm4_moe", True)]
)
def test_collectives_are_those_that_the_config_implies(family: str, expert_parallel: bool) -> None:
    config = tiny_config(family)
    program, before = dealt(config, 2, expert_parallel), paged(config)
    found = ops(program)
    assert {name: found[name] for name in ("all_reduce", "all_gather")} == expected_collectives(
        config
    )
    assert found["local_embedding"] == 1
    assert found["local_moe_ffn"] == (ops(before)["moe_ffn"] if expert_parallel else 0)
    # Routed and shared experts are added up once.
    assert found["all_reduce"] == 2 * config.num_hidden_layers + 1


def test_shapes_of_a_rank() -> None:
    program = dealt(tiny_config("glm4_moe"), 2)
    shapes = {name: weight.shape for name, weight in program.weights.items()}
    assert shapes["model.layers.1.mlp.experts.gate_up_proj"] == (8, 48, 64)
    assert shapes["model.layers.1.mlp.experts.down_proj"] == (8, 64, 24)
    assert shapes["lm_head.weight"] == shapes["model.embed_tokens.weight"] == (80, 64)
    assert shapes["model.layers.1.mlp.gate.weight"] == (8, 64)
    assert {node.meta["cache"].shape for node in program.caches()} == {(1, 16)}


def test_the_program_is_left_as_it_was() -> None:
    program = paged(tiny_config("glm"))
    text, weights = str(program.graph), dict(program.weights)
    sharded(program, 2)
    assert (str(program.graph), program.weights, program.ranks) == (text, weights, 1)


def added_reader(program: Program, name: str) -> Program:
    """The result of the first node of an op is returned as well."""
    node = next(node for node in program.graph.nodes if m.is_op(node, name))
    output = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    output.args = ((output.args[0][0], node),)
    return program


@pytest.mark.parametrize("name", ["glmc.swiglu", "glmc.prefill_attention"])
def test_what_is_also_read_whole_stays_whole(name: str) -> None:
    program = paged(tiny_config("glm4"))
    _, whole = sharded(program.copy(), 2)
    after, result = sharded(added_reader(program, name), 2)
    assert len(result.matches) == len(whole.matches) - 1
    reasons = {miss.condition for miss in result.near_misses}
    assert "it is also read whole, or by what is not dealt" in reasons
    assert ops(after)["all_reduce"] == 4


def test_a_summand_that_is_also_read_added_up_is_not_left_a_summand() -> None:
    """The shared expert takes the ranks' own parts of the routed ones; another reader must not."""
    after, result = sharded(added_reader(paged(tiny_config("glm4_moe")), "glmc.moe_ffn"), 2)
    assert "it is also read added up" in {miss.condition for miss in result.near_misses}
    output = next(node for node in reversed(after.graph.nodes) if node.op == "output")
    assert m.is_op(output.args[0][1], "glmc.all_reduce")


def test_a_cut_weight_with_another_reader_is_refused() -> None:
    program = paged(tiny_config("glm4"))
    weight = next(
        node for node in program.placeholders() if node.meta.get("weight") == "lm_head.weight"
    )
    norm = next(node for node in program.graph.nodes if m.is_op(node, "glmc.add_rms_norm"))
    with program.graph.inserting_after(norm):
        program.graph.call_function(torch.ops.aten.neg.default, (weight,)).meta.update(
            id="neg", module="", layer=None, val=weight.meta["val"]
        )
    with pytest.raises(LoweringError, match=r"lm_head\.weight.* can't be dealt to ranks"):
        sharded(program, 2)
