"""The passes over experts and the residual stream on stock models: counts, constants, logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glmc.capture.model import CaptureOptions
from glmc.ir import match as m
from glmc.ir.program import Program
from glmc.passes import (
    add_rms_norm,
    canonical,
    clean,
    gate_up_merge,
    moe_ffn,
    moe_gate,
    rms_norm,
    shared_expert,
)
from glmc.passes.base import Pass, PassResult
from glmc.presets.matches import expected_matches
from tests.support.models import (
    MODERN,
    captured,
    eager_logits,
    example_inputs,
    tiny_config,
    tiny_model,
    weights_of,
)
from tests.support.thinned import thinned

torch.set_num_threads(1)
FIRST: tuple[Pass, ...] = (canonical.PASS, clean.PASS, rms_norm.PASS)
PASSES: tuple[Pass, ...] = (
    moe_gate.PASS,
    moe_ffn.PASS,
    gate_up_merge.PASS,
    shared_expert.PASS,
    add_rms_norm.PASS,
)
# The grouped spelling counts rows with histc of whole numbers, which has no CPU kernel: a graph
# with it runs from moe_ffn on.
NEED_HISTC = ("canonical", "clean", "rms_norm", "moe_gate")
GROUPED = {"n_group": 4, "topk_group": 2}
# What has no settings of its own is traced once for other tests as well.
CASES: dict[str, tuple[str, torch.dtype, str, dict[str, Any]]] = {
    "glm4": ("glm4", torch.bfloat16, "", {}),
    "batched": ("glm4_moe", torch.bfloat16, "batched_mm", {}),
    "grouped": ("glm4_moe", torch.float32, "grouped_mm", {**GROUPED, "norm_topk_prob": False}),
    "marked": ("glm4_moe", torch.float32, "marked", {}),
}


@dataclass
class Case:
    """A stock model and its program, with what each pass found and gave in that order."""

    config: Any
    model: nn.Module
    program: Program
    results: dict[str, PassResult]
    logits: dict[str, Tensor]
    eager: Tensor
    marked: bool


@pytest.fixture(scope="module", params=thinned(CASES, long=["grouped"]))
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    family, dtype, experts, changes = CASES[request.param]
    if experts in ("grouped_mm", "marked") and not MODERN:
        pytest.skip("transformers before 5 has one spelling of the experts")
    config = tiny_config(family, **changes)
    model: Any = tiny_model(config, dtype)
    model.set_attn_implementation("sdpa")
    if MODERN and family == "glm4_moe":
        model.set_experts_implementation("batched_mm" if experts == "marked" else experts)
    options = CaptureOptions(marked=True) if experts == "marked" else CaptureOptions()
    if experts == "grouped_mm":
        options = CaptureOptions(experts=experts)
    program = captured(config, dtype, options)
    inputs = example_inputs()
    results: dict[str, PassResult] = {}
    logits: dict[str, Tensor] = {}
    for each in (*FIRST, *PASSES):
        results[each.name] = each.run(program)
        if experts != "grouped_mm" or each.name not in NEED_HISTC:
            logits[each.name] = program.run(inputs, weights_of(program, model))[0]
    eager = eager_logits(model, inputs)
    yield Case(config, model, program, results, logits, eager, experts == "marked")


def test_counts(case: Case) -> None:
    expected = expected_matches(case.config)
    for each in (rms_norm.PASS, *PASSES):
        result = case.results[each.name]
        assert (each.name, len(result.matches)) == (each.name, expected[each.name])
        assert result.near_misses == []


def test_constants(case: Case) -> None:
    config = case.config
    for node in case.program.graph.nodes:
        if m.is_op(node, "glmc.moe_gate"):
            top_k, groups, top_groups, fill, normalize, eps, scale = node.args[3:]
            assert (top_k, groups, top_groups) == (2, config.n_group, config.topk_group)
            assert fill in ((0.0,) if groups == 1 else (0.0, float("-inf")))
            assert (normalize, scale) == (config.norm_topk_prob, config.routed_scaling_factor)
            assert eps == (1e-20 if normalize else 0.0)


def test_logits(case: Case) -> None:
    """Bitwise up to the gate and through every bitwise pass; bounded where sums are reordered.

    A reordered sum of n terms is off by at most n roundings of its magnitude, in float32 also for
    a bfloat16 model, where the result may then round to the neighbour. Errors of the layers add.
    """
    config, dtype = case.config, case.eager.dtype
    terms = 2 * config.hidden_size + config.intermediate_size
    unit = terms * 2.0**-24 if dtype == torch.float32 else 4 * 2.0**-8
    bound = config.num_hidden_layers * unit * case.eager.abs().max().float()
    reference = case.eager
    for name, found in case.logits.items():
        reordered = case.marked and reference is case.eager
        if reordered or name in ("moe_ffn", "gate_up_merge"):
            assert (found.float() - case.eager.float()).abs().max() <= bound, name
        else:
            assert torch.equal(found, reference), name
        reference = found


def test_nothing_of_the_old_spelling_is_left(case: Case) -> None:
    left = {m.op_name(node) for node in case.program.graph.nodes}
    gone = {"aten.topk", "aten.gather", "aten.bmm", "aten.silu", "aten.sort", "aten.sigmoid"}
    assert not left & (gone | {"glmc.marked_experts", "aten.rsqrt"})


def test_ids_and_layers_are_kept(case: Case) -> None:
    for name in ("moe_gate", "moe_ffn", "shared_expert"):
        layers = [match.layer for match in case.results[name].matches]
        sparse = range(1, 3) if case.config.model_type == "glm4_moe" else range(0)
        assert layers == list(sparse)


def test_running_again_changes_nothing(case: Case) -> None:
    program = case.program.copy()
    text = str(program.graph)
    for each in PASSES:
        again = each.run(program)
        assert (again.matches, again.near_misses) == ([], []), each.name
    assert str(program.graph) == text
    inputs = example_inputs()
    found = program.run(inputs, weights_of(program, case.model))[0]
    assert torch.equal(found, case.logits["add_rms_norm"])
