"""The shipped mixture: every pass and both phases hold, and a broken pass is caught by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glmc.check.verify.cases import Case, cases, real_prompts
from glmc.check.verify.verifier import Verifier
from glmc.check.verify.weights import ModelWeights
from glmc.errors import VerificationError
from glmc.ir.program import Program
from glmc.passes import rms_norm
from glmc.passes.base import Pass
from glmc.pipeline import runner
from glmc.pipeline import stages as pipeline
from glmc.pipeline.events import StepDone
from glmc.presets.catalog import load_config
from glmc.weights.checkpoint import open_checkpoint
from tests.sabotage import unchecked
from tests.support.captures import remembered

MODEL = Path(__file__).parents[3] / "models" / "tiny-moe"
SOURCE = load_config(MODEL)
CASES = cases(SOURCE.shape.vocabulary, routed=True, texts=real_prompts(MODEL))
WEIGHTS = ModelWeights(open_checkpoint(MODEL, SOURCE.fields))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(torch.float32, id="float32", marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, id="bfloat16"),
    ],
)
def captured(request: pytest.FixtureRequest) -> Program:
    return remembered(SOURCE.config, SOURCE.shape, request.param)


def verified(captured: Program, passes: tuple[Pass, ...], some: tuple[Case, ...]) -> Verifier:
    """Every pass and both phases of a copy."""
    program = captured.copy()
    verifier = Verifier(some, WEIGHTS)
    verifier.observe(StepDone("capture", "capture", program))
    runner.to_paged(program, 16, runner.fuse(program, verifier, passes), verifier)
    return verifier


# test_proof.py proves the steps of this model as a compile runs them.
@pytest.mark.slow
def test_every_step_holds(captured: Program) -> None:
    verifier = verified(captured, pipeline.PASSES, CASES)
    passes = [one.name for one in pipeline.PASSES]
    assert list(verifier.verdicts) == [*passes, "kv_cache", "prefill", "decode"]
    assert all(verdict.holds for verdict in verifier.verdicts.values())
    assert verifier.verdicts["rms_norm"].text == "bitwise: 17 rewrites equal on 9 inputs"


# test_sabotage.py has this fault and sixteen more.
@pytest.mark.slow
def test_a_broken_pass_is_named(captured: Program) -> None:
    def rewrite(rewriter: object, found: object) -> None:
        wrong = replace(found, eps=1e-3) if found.anchor.meta["layer"] == 2 else found  # type: ignore
        rms_norm.rewrite(rewriter, wrong)  # type: ignore[arg-type]

    broken = unchecked(replace(rms_norm.PASS, rewrite=rewrite))
    passes = tuple(broken if one.name == "rms_norm" else one for one in pipeline.PASSES)
    with pytest.raises(VerificationError) as caught:
        verified(captured, passes, CASES)
    assert "pass rms_norm, match model.layers.2." in str(caught.value)
