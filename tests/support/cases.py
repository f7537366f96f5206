"""Proofs of a test over few inputs, which is quick; tests/check/verify proves over all of them."""

from __future__ import annotations

import pytest

from glmc.check.bisect import bisect as bisection
from glmc.check.verify import proved, scope
from glmc.check.verify.cases import Case
from glmc.check.verify.scope import model_cases
from glmc.presets.catalog import ModelSource


def give_cases(patch: pytest.MonkeyPatch, *names: str) -> None:
    """``glmc bisect`` and ``glmc compile --verify`` of whole models take these inputs alone."""

    def few(source: ModelSource) -> tuple[Case, ...]:
        return tuple(case for case in model_cases(source) if case.name in names)

    for module in (bisection, proved, scope):
        patch.setattr(module, "model_cases", few)
