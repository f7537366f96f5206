"""Verdicts of a history, which a dump has in a file of their own: a proof changes no other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from glmc.observe.history.record import REPLAY, History


def without_verdicts(history: History) -> History:
    """The history of a compile that nobody proved."""
    return with_verdicts(history, {})


def with_verdicts(history: History, verdicts: Mapping[str, str]) -> History:
    """The history with the verdicts of a verifier, by step and ``REPLAY``."""
    return replace(
        history,
        steps=tuple(replace(step, verdict=verdicts.get(step.name)) for step in history.steps),
        plans=tuple(replace(plan, verdict=verdicts.get(REPLAY)) for plan in history.plans),
    )
