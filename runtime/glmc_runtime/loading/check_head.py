"""Check that the head of a plan can run by itself, over hidden states that are put there."""

from __future__ import annotations

from glmc_runtime.errors import PlanError
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.phases import Phase
from glmc_runtime.format.plan import (
    Argument,
    Buffer,
    BufferArgument,
    CacheArgument,
    InputArgument,
    PhasePlan,
    place_of,
)
from glmc_runtime.kernels.schema import FLOATS

_ROWS_INPUT = "last_rows"
_TOKENS = Extent.of(tokens=1)


def check_head(plan: PhasePlan, columns: int) -> None:
    """Raise :class:`PlanError` for hidden states that are none, [tokens, ``columns``], and for a
    call of the head that needs more of the step than they."""
    if plan.head is None:
        return
    hidden = next((buffer for buffer in plan.buffers if buffer.id == plan.head.hidden), None)
    if hidden is None or not _is_hidden(hidden, plan.phase, columns):
        raise PlanError(
            f"the hidden states of {plan.name} are none",
            expected=f"a buffer {' or '.join(FLOATS)} [tokens, {columns}]",
            found=f"buffer {plan.head.hidden}"
            if hidden is None
            else f"{hidden.dtype} [{', '.join(map(str, hidden.shape))}]",
        )
    if not 0 <= hidden.first < plan.head.first <= min(hidden.last, len(plan.calls) - 1):
        raise PlanError(
            f"the head of {plan.name} begins where there are no hidden states",
            expected=f"a call from {hidden.first + 1} to {hidden.last}",
            found=str(plan.head.first),
        )
    written: set[int] = {hidden.id}
    for call in plan.calls[plan.head.first :]:
        outputs = {
            argument.buffer: argument
            for name in call.writes
            if isinstance(argument := call.arguments.get(name), BufferArgument)
        }
        for name, argument in call.arguments.items():
            # What is written may not have been before, but nothing else is read of the body.
            known = written | outputs.keys() if name in call.writes else written
            if _is_foreign(argument, known, plan.phase):
                raise PlanError(
                    f"the head of {plan.name} reads '{name}', which is not of the hidden states",
                    place=place_of(call),
                )
        if hidden.id in outputs:
            raise PlanError(
                f"the head of {plan.name} writes the hidden states", place=place_of(call)
            )
        written |= outputs.keys()


def _is_hidden(buffer: Buffer, phase: Phase, columns: int) -> bool:
    if len(buffer.shape) != 2 or buffer.shape[1] != Extent.of(constant=columns):
        return False
    return phase.normal(buffer.shape[0]) == phase.normal(_TOKENS) and buffer.dtype in FLOATS


def _is_foreign(argument: Argument, written: set[int], phase: Phase) -> bool:
    if isinstance(argument, BufferArgument):
        return argument.buffer not in written
    if isinstance(argument, InputArgument):
        rows = Extent.parse(phase.output[0])
        picks_rows = phase.normal(rows) != phase.normal(_TOKENS)
        return not picks_rows or argument.input != _ROWS_INPUT
    return isinstance(argument, CacheArgument)
