"""Every pass that is broken on purpose is caught by name, and its layer where it is only one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glmc.check.verify.cases import cases, real_prompts
from glmc.check.verify.verdict import Verdict, require_verdict
from glmc.check.verify.verifier import verify_pass
from glmc.check.verify.weights import ModelWeights
from glmc.errors import VerificationError
from glmc.ir import match as m
from glmc.ir.program import Program
from glmc.passes import rms_norm
from glmc.passes.kv_cache import KvCache
from glmc.pipeline import runner
from glmc.pipeline import stages as pipeline
from glmc.presets.catalog import load_config
from glmc.weights.checkpoint import open_checkpoint
from tests.sabotage import SABOTAGES, Sabotage, sabotaged
from tests.support.captures import remembered
from tests.support.thinned import crossed

MODEL = Path(__file__).parents[3] / "models" / "tiny-moe"
SOURCE = load_config(MODEL)
CASES = cases(SOURCE.shape.vocabulary, routed=True, texts=real_prompts(MODEL))
WEIGHTS = ModelWeights(open_checkpoint(MODEL, SOURCE.fields))
LAYER = 2
# Within one rounding of bfloat16: only the proof in float32 can see it.
FINE = ("expert_weights_in_bfloat16",)


Steps = dict[str, Program]


@pytest.fixture(scope="module")
def steps(request: pytest.FixtureRequest) -> Steps:
    """The program before each pass."""
    program = remembered(SOURCE.config, SOURCE.shape, getattr(torch, request.param))
    found = {}
    for one in (*pipeline.PASSES, KvCache(16)):
        found[one.name] = program.copy()
        runner.run_pass(one, program)
    return found


def verdict_of(steps: Steps, sabotage: Sabotage) -> Verdict:
    before = steps[sabotage.pass_name]
    after = before.copy()
    broken = {one.name: one for one in (*sabotage.passes, sabotage.paging(16))}
    record = runner.run_pass(broken[sabotage.pass_name], after)
    return verify_pass(before, after, record, CASES, WEIGHTS)


# Each in one layer, which is the harder to place; everywhere, and in the dtype whose roundings
# could hide it, one of each kind of edit. The normal suite has one of each pass.
QUICK = (
    *("wrong_norm_eps", "swapped_rope_halves", "missing_attention_scale", "wrong_qkv_order"),
    *("biased_scores_as_weights", "swapped_gate_up", "shared_expert_dropped"),
    "cache_slot_off_by_one",
)
EVERYWHERE = ("wrong_norm_eps", "wrong_qkv_order", "routed_scale_twice", *FINE)


@pytest.mark.parametrize(
    ("steps", "name", "layers"),
    crossed(
        *(["float32", "bfloat16"], SABOTAGES, [None, (LAYER,)]),
        quick=[("float32", name, (LAYER,)) for name in QUICK],
        long=[
            *(("float32", name, (LAYER,)) for name in SABOTAGES if name not in QUICK),
            *(("bfloat16", name, None) for name in EVERYWHERE),
        ],
    ),
    indirect=["steps"],
)
def test_it_is_caught(steps: Steps, name: str, layers: tuple[int, ...] | None) -> None:
    sabotage = sabotaged(name, layers)
    verdict = verdict_of(steps, sabotage)
    if name in FINE and steps["canonical"].dtype is not torch.float32:
        assert verdict.holds
        return
    with pytest.raises(VerificationError) as caught:
        require_verdict(verdict)
    place = caught.value.place or ""
    assert place.startswith(f"pass {sabotage.pass_name}, match model.layers.")
    if layers is not None:
        assert f", match model.layers.{LAYER}." in place and f", layer {LAYER}" in place
        assert {violation.layer for violation in verdict.violations} == {LAYER}


@pytest.mark.parametrize("steps", ["float32"], indirect=True)
def test_what_cannot_be_computed_is_a_violation(steps: Steps) -> None:
    after = steps["rms_norm"].copy()
    record = runner.run_pass(rms_norm.PASS, after)
    norm = next(node for node in after.graph.nodes if m.is_op(node, "glmc.rms_norm"))
    norm.update_arg(1, next(node for node in after.placeholders() if "weight" in node.meta))
    verdict = verify_pass(steps["rms_norm"], after, record, CASES[:1], WEIGHTS)
    assert [violation.layer for violation in verdict.violations] == [0]
    assert "RuntimeError" in verdict.violations[0].failure
    assert "can't be computed (RuntimeError: The size" in verdict.text
