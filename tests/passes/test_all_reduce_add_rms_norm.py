"""all_reduce_add_rms_norm: each sum over the ranks that a residual addition reads, bitwise."""

from __future__ import annotations

import pytest
import torch

from glmc.ir.ops.collectives import ALL_REDUCE
from glmc.ir.ops.norms import ADD_RMS_NORM
from glmc.ir.program import Program
from glmc.passes import all_reduce_add_rms_norm, specialise
from glmc.passes.shard import Shard
from glmc.pipeline import runner
from tests.backends.planned import WIDTH, Built
from tests.passes.merges import conditions, count
from tests.support.models import tiny_config, tiny_model
from tests.support.packed import give_caches, paged
from tests.support.ranked import RankedBatch
from tests.support.thinned import thinned

PASS = all_reduce_add_rms_norm.PASS


def phases(family: str, merging: bool) -> list[Program]:
    program = paged(tiny_config(family))
    Shard(2).run(program)
    made = [give_caches(make(program)) for make in (specialise.prefill, specialise.decode)]
    for each in made if merging else []:
        reduced = count(each, "all_reduce")
        matches = len(PASS.run(each).matches)
        assert count(each, PASS.name) == matches == reduced - count(each, "all_reduce")
        text = str(each.graph)
        assert not PASS.run(each).matches and str(each.graph) == text
        each.graph_module.recompile()
    return made


@pytest.mark.parametrize(
    ("family", "left"),
    thinned([("glm", 1), ("glm4_moe", 1), ("glm4", None)], long=[("glm", 1), ("glm4", None)]),
)
def test_merged_phases_give_the_same_bits(family: str, left: int | None) -> None:
    """What is left is the embedding's sum; the sandwich norms of glm4 leave all."""
    logits = []
    for merging in (False, True):
        prefill, decode = phases(family, merging)
        if merging:
            reduced = 1 + 2 * tiny_config(family).num_hidden_layers
            assert count(decode, "all_reduce") == (reduced if left is None else left)
        batch = RankedBatch(tiny_model(tiny_config(family)), (9, 4))
        logits.append([batch.step(prefill, (5, 2)), batch.step(decode, (1, 1))])
    assert all(torch.equal(*pair) for pair in zip(*logits, strict=True))


def test_refuses_a_sum_that_is_read_elsewhere() -> None:
    built = Built()
    x, stream = built.input("x", "tokens", WIDTH), built.input("stream", "tokens", WIDTH)
    total = built.call(ALL_REDUCE.overload, x)
    both = built.call(ADD_RMS_NORM.overload, total, stream, built.weight("w", WIDTH), 1e-5)
    result = PASS.run(built.program(built.item(both, 0), total))
    assert not result.matches
    assert conditions(result) == ["the sum over the ranks is also read elsewhere"]


def test_one_rank_has_nothing_to_merge() -> None:
    """Where it is not dealt, a model's report does not name the pass."""
    program = specialise.decode(paged(tiny_config("glm")))
    assert runner.merge(program, {PASS.name}) == (program, ())
