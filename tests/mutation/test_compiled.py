"""Mutants handed to ``torch.compile``: each call gives what eager code gives, or is refused."""

from __future__ import annotations

import random

import pytest
import torch

from tests.mutation.compiled import in_place_mutations, judge_compiled
from tests.mutation.judge import FAULTS, Outcome, all_mutations, by_name
from tests.mutation.subjects import SUBJECTS
from tests.mutation.test_reverted import TWISTS

torch.set_num_threads(1)
SPELLINGS = (
    "attention.mask_given.traced",
    "rope.neox_without_neg.traced",
    "moe_gate.NoGroups.traced",
    "moe_ffn.Batched.traced",
    "rms_norm.RmsNorm.traced",
    "gate_up_merge.Mlp.traced",
    "canonical.matmul.traced",
)
VALID, IN_PLACE = 6, 4


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "xpu"])
@pytest.mark.parametrize("name", TWISTS)
def test_compiled_twists(name: str, target: str) -> None:
    assert judge_compiled(*by_name(name), target) == (Outcome.FUSED, "")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "xpu"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_compiled_mutants(name: str, target: str) -> None:
    subject = SUBJECTS[name]
    written = in_place_mutations(subject)
    others = all_mutations(subject)
    random.Random(name).shuffle(written)
    random.Random(name).shuffle(others)
    wrong, valid = [], 0
    for each in (*written[:IN_PLACE], *others):
        outcome, text = judge_compiled(subject, each, target)
        valid += outcome is not Outcome.INVALID
        # Emulated hardware has limits of its own, which it names; the host computes everything.
        if outcome in FAULTS or (outcome is Outcome.REFUSED and target == "cpu"):
            wrong.append(f"{name}:{each.name}: {outcome.value}: {text}")
        if valid == VALID + IN_PLACE:
            break
    assert not wrong
    assert valid
