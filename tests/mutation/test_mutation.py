"""Mutants of every spelling: what the passes make of one computes what the mutant computes.

``python -m tests.mutation --mutant NAME`` judges one of those that a failure names.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch

from tests.mutation.judge import Outcome, Verdict, all_mutations, judge
from tests.mutation.subjects import SUBJECTS
from tests.mutation.summary import faults

torch.set_num_threads(1)
# Of each pass the spelling that costs least to trace.
SAMPLED = (
    "attention.mask_given.traced",
    "attention.sdpa_without_mask.stateless",
    "rope.neox_without_neg.traced",
    "moe_gate.NoGroups.traced",
    "moe_ffn.Stacked457.traced",
    "rms_norm.RmsNorm.stateless",
    "gate_up_merge.Mlp.traced",
    "canonical.matmul.traced",
)
VALID = 8


def sample(name: str) -> Iterator[Verdict]:
    """The first mutants that torch takes, in an order that is always the same."""
    found = all_mutations(SUBJECTS[name])
    random.Random(name).shuffle(found)
    valid = 0
    for each in found:
        verdict = judge(SUBJECTS[name], each)
        valid += verdict.outcome is not Outcome.INVALID
        yield verdict
        if valid == VALID:
            return


@pytest.mark.parametrize("name", SAMPLED)
def test_a_sample(name: str) -> None:
    found = list(sample(name))
    assert not faults(found)
    assert sum(each.outcome is not Outcome.INVALID for each in found) == VALID
    assert any(each.changes for each in found)
