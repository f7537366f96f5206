"""specialise: prefill gives the last row of each sequence, decode one for each."""

from __future__ import annotations

import pytest
import torch

from glmc.errors import LoweringError
from glmc.ir import match as m
from glmc.passes import specialise
from glmc_runtime.format.extent import Extent
from tests.support.models import tiny_config, tiny_model
from tests.support.packed import Batch, fused, give_caches, paged
from tests.support.thinned import thinned

TOLERANCE = 2e-5


# Glm4 differs in norms, which are the same op in every phase.
@pytest.mark.parametrize("family", thinned(["glm", "glm4", "glm4_moe"], ["glm4"]))
def test_prefill_in_chunks_then_decode_equals_each_sequence_alone(family: str) -> None:
    config = tiny_config(family)
    batch = Batch(tiny_model(config), (9, 4, 24))
    expected = batch.alone(fused(config))
    program = paged(config)
    prefill = give_caches(specialise.prefill(program))
    decode = give_caches(specialise.decode(program))
    steps = [(prefill, (3, 2, 8)), (prefill, (4, 1, 12)), (decode, (1, 1, 1))]
    for phase, counts in steps:
        logits = batch.step(phase, counts)
        assert logits.shape == (3, 160)
        wanted = [rows[done - 1] for rows, done in zip(expected, batch.done, strict=True)]
        torch.testing.assert_close(logits, torch.stack(wanted), rtol=TOLERANCE, atol=TOLERANCE)


def test_the_inputs_and_sizes_of_the_phases() -> None:
    program = paged(tiny_config("glm4_moe"))
    prefill, decode = specialise.prefill(program), specialise.decode(program)
    caches = [f"{kind}_cache.{layer}" for layer in range(3) for kind in ("key", "value")]
    shared = ["token_ids", "positions", "slot_mapping", "block_tables"]
    names = [[node.meta["input"] for node in each.inputs()] for each in (prefill, decode)]
    assert names[0] == [*shared, "cu_seqlens_q", "cu_seqlens_k", "last_rows", *caches]
    assert names[1] == [*shared, "context_lengths", *caches]
    extents = []
    for each in (prefill, decode):
        head = specialise.head_of(each)
        assert each.symbols is not None
        extents.append(each.symbols.extent(m.shape(head)[0]))
    assert extents == [Extent.of(sequences=1), Extent.of(tokens=1)]
    ops = [{m.op_name(node) for node in each.graph.nodes} for each in (prefill, decode)]
    assert "glmc.decode_attention" not in ops[0] and "glmc.prefill_attention" not in ops[1]
    assert "glmc.select_rows" in ops[0] and "glmc.select_rows" not in ops[1]


def test_the_paged_program_is_left_as_it_was() -> None:
    program = paged(tiny_config("glm"))
    text = str(program.graph)
    specialise.prefill(program)
    specialise.decode(program)
    assert (str(program.graph), program.phase) == (text, "paged")


def test_logits_that_are_not_the_output_of_a_linear_are_refused() -> None:
    program = paged(tiny_config("glm"))
    head = specialise.head_of(program)
    output = next(iter(head.users))
    with program.graph.inserting_before(output):
        capped = program.graph.call_function(torch.ops.aten.tanh.default, (head,))
    capped.meta = dict(head.meta)
    output.args = ((capped,),)
    with pytest.raises(LoweringError) as caught:
        specialise.prefill(program)
    assert (caught.value.expected, caught.value.found) == ("glmc.linear", "aten.tanh")
