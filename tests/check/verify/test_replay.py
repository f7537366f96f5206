"""The replayed plan of the shipped mixture: it holds, and a wrong constant is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc.check.verify.cases import real_prompts, small_activations
from glmc.check.verify.replay import Reference, verify_replay
from glmc.check.verify.verdict import Verdict, require_verdict
from glmc.check.verify.weights import ModelWeights
from glmc.compiled import Compiled
from glmc.compiler import back_end, front_end
from glmc.config import CompileOptions
from glmc.errors import VerificationError
from glmc.ir.program import Program
from glmc.job import Job, resolve
from glmc.presets.catalog import load_config
from glmc.weights.checkpoint import open_checkpoint
from tests.sabotage import PLAN_SABOTAGES, with_wrong_constant
from tests.support.observing import Steps
from tests.support.thinned import thinned

pytestmark = pytest.mark.usefixtures("shared_captures")
MODEL = Path(__file__).parents[3] / "models" / "tiny-moe"
SOURCE = load_config(MODEL)
WEIGHTS = ModelWeights(open_checkpoint(MODEL, SOURCE.fields))
QUIET = ModelWeights(open_checkpoint(MODEL, SOURCE.fields), alteration=small_activations)
BUCKETS = {"decode_buckets": (4, 8), "prefill_buckets": (16, 128), "max_context": 128}


class Built:
    """Both targets' plans of one dtype, and the captured graph."""

    def __init__(self, dtype: str) -> None:
        self.captured: list[Program] = []

        def captured(name: str, program: Program) -> None:
            if name == "capture":
                self.captured.append(program.copy())

        self._dtype = dtype
        self._front = front_end(self._job("cpu"), Steps(captured))

    def _job(self, target: str) -> Job:
        options = CompileOptions(target=target, dtype=self._dtype, block_size=16, **BUCKETS)
        return resolve(SOURCE, options)

    def compiled(self, target: str) -> Compiled:
        return back_end(self._front, self._job(target))


@pytest.fixture(scope="module")
def exact() -> Built:
    return Built("float32")


@pytest.fixture(scope="module")
def rounded() -> Built:
    return Built("bfloat16")


def verdict_of(compiled: Compiled, exact: Built, own: Built, weights: ModelWeights) -> Verdict:
    reference = Reference(own.captured[0], exact.captured[0], weights)
    return verify_replay(compiled, reference, real_prompts(MODEL))


@pytest.mark.long
@pytest.mark.parametrize("target", ["cpu", "xpu"])
def test_the_plan_holds(exact: Built, rounded: Built, target: str) -> None:
    said = "xpu (emulated)" if target == "xpu" else "cpu"
    for weights in (WEIGHTS, QUIET):
        verdict = verdict_of(exact.compiled(target), exact, exact, weights)
        assert verdict.holds and verdict.text.startswith(
            f"{said}, 8 sequences, 72 rows: in float32 off by at "
        )
    verdict = verdict_of(rounded.compiled(target), exact, rounded, WEIGHTS)
    assert (
        verdict.holds
        and " times the captured graph's own error" in verdict.text
        and "in bfloat16" in verdict.text
    )


# A decode step's scale and cpu's rope are seen by the same comparison in the normal suite.
COARSE = [("cpu", "plan_prefill_scale"), ("xpu", "plan_rope_neox")]


# What both targets can get wrong is seen by the same comparison of logits.
@pytest.mark.parametrize(
    ("target", "name"),
    thinned(
        [(target, name) for target in PLAN_SABOTAGES for name in PLAN_SABOTAGES[target]],
        [("xpu", name) for name in PLAN_SABOTAGES["xpu"] if name in PLAN_SABOTAGES["cpu"]],
        long=COARSE,
    ),
)
def test_a_wrong_constant_is_seen(exact: Built, target: str, name: str) -> None:
    wrong = with_wrong_constant(exact.compiled(target), name)
    verdicts = [verdict_of(wrong, exact, exact, weights) for weights in (WEIGHTS, QUIET)]
    assert not all(verdict.holds for verdict in verdicts), [each.text for each in verdicts]
    with pytest.raises(VerificationError) as caught:
        for verdict in verdicts:
            require_verdict(verdict)
    assert "replayed plan" in str(caught.value)


def test_a_plan_that_fails_is_a_violation(exact: Built) -> None:
    wrong = with_wrong_constant(exact.compiled("cpu"), "plan_without_eps")
    verdict = verdict_of(wrong, exact, exact, WEIGHTS)
    assert not verdict.holds and verdict.violations[0].failure
    assert "cpu fails; logits can't be computed (" in verdict.text
