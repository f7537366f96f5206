"""A model that is dealt to ranks is proved without any: what is right holds, and what is broken is
found at its node."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc.check.bisect.search import first_node
from glmc.check.verify.cases import cases
from glmc.check.verify.judge import _of_piece
from glmc.check.verify.random_weights import RandomPool
from glmc.check.verify.verdict import Verdict
from glmc.check.verify.verifier import verify_pass
from glmc.check.verify.weights import ModelWeights
from glmc.ir.program import Program
from glmc.ir.tolerance import compare
from glmc.passes import specialise
from glmc.passes.shard import Shard
from glmc.pipeline import runner
from glmc.pipeline.records import PassRecord
from glmc.presets.fields import fields_of
from tests.dealt_sabotage import DEALT, PLACE, VOCABULARY, bias_on_all_ranks, with_bias
from tests.support.models import tiny_config
from tests.support.packed import paged
from tests.support.thinned import crossed

pytestmark = pytest.mark.long

# Neither heads nor width nor vocabulary divide.
ODD = {"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 97}
CASES = cases(VOCABULARY, routed=True, longest=20)
FEW = tuple(case for case in CASES if case.name == "random tokens")
CONFIG = tiny_config("glm4_moe", vocab_size=VOCABULARY)


def weights_of(config: Any) -> ModelWeights:
    return ModelWeights(RandomPool(fields_of(config), torch.float32, torch.float32))


def dealt(before: Program, ranks: int, expert_parallel: bool) -> tuple[Program, PassRecord]:
    after = before.copy()
    return after, runner.run_pass(Shard(ranks, expert_parallel), after)


@pytest.mark.parametrize(
    ("family", "overrides", "ranks", "expert_parallel"),
    crossed(
        ["glm", "glm4", "glm4_moe"],
        [{}, ODD],
        [2, 3, 4, 8],
        [False, True],
        quick=[("glm", ODD, 2, False), ("glm4_moe", {}, 3, True), ("glm4_moe", {}, 4, False)],
    ),
)
def test_every_step_of_a_dealt_model_holds(
    family: str, overrides: dict[str, Any], ranks: int, expert_parallel: bool
) -> None:
    config = tiny_config(family, vocab_size=VOCABULARY, **overrides)
    before, weights = paged(config), weights_of(config)
    after, record = dealt(before, ranks, expert_parallel)
    some = CASES if not overrides else FEW
    verdict = verify_pass(before, after, record, some, weights)
    assert verdict.holds, verdict.text
    decided = sum(case.decided for case in some)
    inputs = f"{decided} input{'' if decided == 1 else 's'}"
    assert verdict.text.startswith("reordered: ") and verdict.text.endswith(f"on {inputs}")
    layers = config.num_hidden_layers
    assert len(record.matches) == 2 * layers + 2
    for make in specialise.PHASES.values():
        phase = make(after)
        specialised = PassRecord(specialise.NAME, specialise.NUMERICS.value, 0.0, 0, 0, (), ())
        verdict = verify_pass(after, phase, specialised, FEW, weights)
        assert verdict.holds, verdict.text


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_heads_of_nothing_hold_beside_keys_of_others(ranks: int) -> None:
    """Six heads on two KV heads, as eight ranks would share them: two of them have no head."""
    config = tiny_config("glm", vocab_size=VOCABULARY, num_attention_heads=6, num_key_value_heads=2)
    before, weights = paged(config), weights_of(config)
    after = before.copy()
    record = runner.run_pass(Shard(ranks, shares=8), after)
    assert (next(iter(after.caches())).meta["dealt"][1].local == 1) == (ranks == 4)
    verdict = verify_pass(before, after, record, FEW, weights)
    assert verdict.holds, verdict.text


def broken(name: str) -> Verdict:
    before = paged(CONFIG)
    after, record = dealt(before, 2, expert_parallel=False)
    DEALT[name].edit(after)
    return verify_pass(before, after, record, FEW, weights_of(CONFIG))


@pytest.mark.parametrize("name", DEALT)
def test_a_sabotage_is_found_at_its_node(name: str) -> None:
    verdict = broken(name)
    assert verdict.violations[0].node == DEALT[name].node
    evidence = first_node(verdict)
    assert not evidence.deviation().allowed
    # What is shown again needs no ranks: one graph has the calls of all.
    assert {start.op for start in evidence.after.starts} == {"placeholder"}
    assert not any("all_reduce" in str(node.target) for node in evidence.after.calls)


def test_a_bias_that_all_ranks_add_is_found() -> None:
    before = with_bias(paged(CONFIG))
    after, record = dealt(before, 2, expert_parallel=False)
    assert verify_pass(before, after, record, FEW, weights_of(CONFIG)).holds
    bias_on_all_ranks(after)
    verdict = verify_pass(before, after, record, FEW, weights_of(CONFIG))
    first = verdict.violations[0]
    assert (first.node, first.layer, first.rank) == (f"{PLACE}.self_attn.o_proj#linear", 1, None)
    # The sum of both ranks' products shows it, from the bias and all else that they read.
    assert sum("linear" in str(node.target) for node in first_node(verdict).after.calls) == 2


def test_of_a_value_that_is_cut_the_rank_is_named() -> None:
    (first,) = broken("padding_not_zero").violations
    assert first.rank == 1 and "lm_head#linear on rank 1 is off by" in str(first)


def test_a_piece_of_a_parameter_takes_no_memory() -> None:
    """So a mixture of full width can be dealt by expert without the memory of its experts."""
    after, _ = dealt(paged(CONFIG), 2, expert_parallel=True)
    weights = weights_of(CONFIG)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    whole = weights.source.parameter(name)  # type: ignore[attr-defined]
    for rank in range(2):
        mine = weights.table(after, rank)[name]
        assert mine.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
        assert torch.equal(mine, whole[4 * rank : 4 * rank + 4])


@pytest.mark.parametrize(("steps", "allowed"), [(1, True), (4, False)])
def test_a_value_of_a_piece_is_rounded_at_its_own_magnitude(steps: int, allowed: bool) -> None:
    """One that is many times as large as its row has a rounding that is many times the row's."""
    program = paged(CONFIG)
    node = next(each for each in program.graph.nodes if each.meta["id"].endswith(".mlp#mul"))
    whole = torch.full((64,), 0.01)
    whole[5] = 2.0
    piece = whole.clone()
    for _ in range(steps):
        piece[5] = torch.nextafter(piece[5], torch.tensor(3.0))
    deviation = compare(whole, piece, _of_piece(node))
    assert deviation.allowed is allowed
    piece[5], piece[7] = whole[5], 0.01 + 1e-6
    assert not compare(whole, piece, _of_piece(node)).allowed
