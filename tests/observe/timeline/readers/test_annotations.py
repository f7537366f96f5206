"""Names of steps of vLLM, SGLang and torch.profiler."""

from __future__ import annotations

import pytest

from glmc.observe.timeline.readers.annotations import is_profiler_step, step_kind
from glmc.observe.timeline.table import StepKind

NAMES = {
    "execute_context_0(0)_generation_16(16)": StepKind("decode", 16, 16),
    "execute_context_2(700)_generation_0(0)": StepKind("prefill", 2, 700),
    "execute_context_1(512)_generation_3(3)": StepKind("mixed", 4, 515),
    "execute_16_context_0(sq0sk0sqsq0sqsk0)_generation_16(sq16sk8192sqsq16sqsk8192)": StepKind(
        "decode", 16, 16
    ),
    "step[DECODE bs=64]": StepKind("decode", 64, 64),
    "step[EXTEND bs=4 toks=512]": StepKind("prefill", 4, 512),
    "step[MIXED bs=8 toks=100]": StepKind("mixed", 8, 100),
    "step[VERIFY bs=2]": StepKind("verify", 2, None),
    "step[DECODE bs=4 seq_lens=9 forward_id=7]": StepKind("decode", 4, 4),
    "ProfilerStep#3": None,
    "nn.Module: FusedMoE_0": None,
    "model_inference": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_the_kind_of_a_step(name: str) -> None:
    assert step_kind(name) == NAMES[name]


def test_steps_of_the_profiler_itself() -> None:
    assert is_profiler_step("ProfilerStep#3") and not is_profiler_step("ProfilerStep")
