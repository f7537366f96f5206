"""What passes and rules may assume of a program: where it comes from decides."""

from __future__ import annotations

from dataclasses import dataclass

from glmc.errors import InternalError
from glmc_runtime.format.phases import PHASES


@dataclass(frozen=True)
class Assumptions:
    """What a program of ``glmc compile`` and one that Dynamo traced don't have in common."""

    causal: bool
    """Attention is causal over the tokens of the step. Else it is under whatever mask the program
    makes, over the keys of a cache of its own."""
    any_size: bool
    """Sizes are symbols for which any batch and length may stand. Else they are those of one call,
    and what is concluded from one is guarded."""
    step_inputs: bool
    """Inputs are rows of the table of step inputs, and the runtime has checked their values. Else
    they are the caller's, of any shape, dtype and value."""
    constant_weights: bool
    """Weights never change. Else they may hold other values in the next call, or be written in a
    step: no value may be built in."""


_BEFORE_PHASES = ("stateless", "paged")
_COMPILED = Assumptions(causal=True, any_size=True, step_inputs=True, constant_weights=True)
_TRACED = Assumptions(causal=False, any_size=False, step_inputs=False, constant_weights=False)


def assumptions_of(phase: str) -> Assumptions:
    """What may be assumed in a program of this phase (:class:`glmc.ir.program.Program`).

    Raises InternalError for one that nobody registered: the wrong assumptions are silent."""
    if phase == "traced":
        return _TRACED
    if phase in _BEFORE_PHASES or phase in PHASES:
        return _COMPILED
    raise InternalError(
        f"nobody says what may be assumed of a program of phase {phase!r}",
        expected=", ".join(("traced", *_BEFORE_PHASES, *PHASES)),
        found=phase,
    )
