"""The slow tests of all spellings; a file each for those that run beside each other."""

from __future__ import annotations

import torch

from tests.mutation.judge import Outcome, verdicts
from tests.mutation.subjects import SUBJECTS, base
from tests.mutation.summary import faults

# Mutants of each kind and spelling.
LIMIT = 3


def subjects_of(*families: str) -> list[str]:
    return [name for name, subject in SUBJECTS.items() if subject.family in families]


def require_no_faults(name: str) -> None:
    torch.set_num_threads(1)
    assert base(SUBJECTS[name]).count > 0, "the spelling itself must be fused"
    found = list(verdicts(SUBJECTS[name], LIMIT))
    assert any(each.outcome is not Outcome.INVALID for each in found)
    assert not faults(found)
