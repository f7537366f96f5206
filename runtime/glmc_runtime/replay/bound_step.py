"""A step that is bound, and the parts of it that can run by themselves: what is before the head of
the model, and the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import torch

from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.kernels import Thunk


class Sizes(Protocol):
    """A step as its replay sees it: sizes by symbol, of its bucket and real ones."""

    @property
    def sizes(self) -> Mapping[str, int]: ...
    @property
    def real(self) -> Mapping[str, int]: ...


class Inputs(Protocol):
    """Fills the step inputs that the bound calls read; see :class:`StepInputs`."""

    def fill(self, step: Any, tokens: torch.Tensor | None = None) -> None: ...
    def thunks(self, sizes: Mapping[str, int]) -> tuple[Thunk, ...]: ...


class Part(Enum):
    """Calls of a phase that run together. Body and head are apart only in a plan that has a segment
    from the first call of its head on."""

    WHOLE = "whole"
    BODY = "body"
    HEAD = "head"


@dataclass(frozen=True)
class BoundStep:
    """A step ready to run. ``segments`` hold the thunks of the calls, by segment; ``thunks`` are
    the same, merged where they can be.

    ``logits`` and, where the plan has them, the ``greedy`` tokens are those of the real sequences,
    the ``hidden`` states those of the real tokens: views that the next step overwrites. ``body``
    are the hidden states where a caller of the body alone finds them.
    """

    thunks: Mapping[Part, tuple[Thunk, ...]]
    segments: tuple[tuple[Thunk, ...], ...]
    logits: torch.Tensor
    greedy: torch.Tensor | None
    hidden: torch.Tensor | None
    body: torch.Tensor | None


def parts_of(plan: PhasePlan) -> dict[Part, range]:
    """The numbers of the segments of each part that the plan can run by itself."""
    count = len(plan.segments)
    parts = {Part.WHOLE: range(count)}
    starts = [segment.first for segment in plan.segments]
    if plan.head is not None and plan.head.first in starts:
        first = starts.index(plan.head.first)
        parts |= {Part.BODY: range(first), Part.HEAD: range(first, count)}
    return parts
