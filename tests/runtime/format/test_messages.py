"""What ranks tell each other, read from plans: also from those that nobody has checked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from glmc_runtime.errors import PlanError
from glmc_runtime.format.manifest import CollectiveCalls
from glmc_runtime.format.messages import FAMILY, collective_calls
from glmc_runtime.format.plan import Argument, BufferArgument, ValueArgument
from tests.runtime.toy import toy_plan


def test_equal_messages_are_one_row() -> None:
    plan = toy_plan("decode", ranks=2)
    calls = [call for call in plan.calls if call.function.startswith(FAMILY)]
    rows = collective_calls([plan])
    assert calls and sum(row.calls for row in rows) == len(calls)
    twice = replace(plan, calls=(*plan.calls, *calls))
    assert collective_calls([twice]) == tuple(replace(row, calls=2 * row.calls) for row in rows)
    assert all(isinstance(row, CollectiveCalls) and row.phase == "decode" for row in rows)


@pytest.mark.parametrize(
    "x", [None, ValueArgument(3), BufferArgument(10**9), BufferArgument(-1)], ids=repr
)
def test_a_call_that_tells_of_no_buffer_is_refused(x: Argument | None) -> None:
    plan = toy_plan("decode", ranks=2)
    place = next(at for at, call in enumerate(plan.calls) if call.function.startswith(FAMILY))
    call = plan.calls[place]
    arguments = {name: each for name, each in call.arguments.items() if name != "x"}
    changed = replace(call, arguments=arguments if x is None else {**arguments, "x": x})
    with pytest.raises(PlanError, match="has no buffer 'x'"):
        collective_calls([replace(plan, calls=(changed,))])
