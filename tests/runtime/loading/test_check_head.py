"""The head of a plan: what it may read, and where the hidden states may be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from glmc_runtime.errors import PlanError
from glmc_runtime.format.plan import BufferArgument, Head, InputArgument, PhasePlan
from glmc_runtime.format.plan_json import phase_from_json, phase_to_json
from glmc_runtime.loading.check_head import check_head
from tests.runtime.toy import HIDDEN, toy_plan

PHASES = pytest.mark.parametrize("phase", ["prefill", "decode"])


def headed(phase: str) -> PhasePlan:
    plan = toy_plan(phase)
    assert plan.head is not None
    return plan


def named(plan: PhasePlan, name: str) -> int:
    return next(buffer.id for buffer in plan.buffers if buffer.name == name)


@PHASES
def test_the_head_of_the_toy_is_good_and_survives_json(phase: str) -> None:
    plan = headed(phase)
    check_head(plan, HIDDEN)
    assert phase_from_json(phase_to_json(plan)) == plan


@PHASES
@pytest.mark.parametrize("buffer", ["merged", "logits", "absent"])
def test_other_buffers_are_no_hidden_states(phase: str, buffer: str) -> None:
    plan = headed(phase)
    number = 99 if buffer == "absent" else named(plan, buffer)
    with pytest.raises(PlanError):
        check_head(replace(plan, head=replace(plan.head, hidden=number)), HIDDEN)


@PHASES
def test_hidden_states_have_the_width_of_the_model(phase: str) -> None:
    with pytest.raises(PlanError, match="are none"):
        check_head(headed(phase), HIDDEN + 1)


def test_hidden_states_before_all_calls_are_refused() -> None:
    plan = headed("decode")
    assert plan.head is not None
    buffers = tuple(
        replace(buffer, first=-5) if buffer.id == plan.head.hidden else buffer
        for buffer in plan.buffers
    )
    with pytest.raises(PlanError, match="begins where"):
        check_head(replace(plan, buffers=buffers, head=replace(plan.head, first=-3)), HIDDEN)


def test_what_is_written_later_is_read_of_the_body_all_the_same() -> None:
    plan = headed("decode")
    last = plan.calls[-1]
    stale = BufferArgument(named(plan, "merged"))
    arguments = {**last.arguments, "out": stale, "x": stale}
    calls = (*plan.calls[:-1], replace(last, arguments=arguments))
    with pytest.raises(PlanError, match="reads 'x'"):
        check_head(replace(plan, calls=calls), HIDDEN)


@PHASES
@pytest.mark.parametrize("first", [0, 3, 99])
def test_a_head_that_begins_elsewhere_is_refused(phase: str, first: int) -> None:
    plan = headed(phase)
    with pytest.raises(PlanError):
        check_head(replace(plan, head=replace(plan.head, first=first)), HIDDEN)


def test_only_prefill_chooses_rows_by_a_step_input() -> None:
    plan = headed("prefill")
    with pytest.raises(PlanError, match="reads 'rows'"):
        check_head(replace(plan, name="decode"), HIDDEN)
    call = plan.calls[plan.head.first]
    other = replace(call, arguments={**call.arguments, "rows": InputArgument("positions")})
    calls = (*plan.calls[: plan.head.first], other, *plan.calls[plan.head.first + 1 :])
    with pytest.raises(PlanError, match="reads 'rows'"):
        check_head(replace(plan, calls=calls), HIDDEN)


def test_the_head_leaves_the_hidden_states_alone() -> None:
    plan = headed("decode")
    last = plan.calls[-1]
    hidden = plan.calls[plan.head.first].arguments["x"]
    calls = (*plan.calls[:-1], replace(last, arguments={**last.arguments, "out": hidden}))
    with pytest.raises(PlanError, match="writes the hidden states"):
        check_head(replace(plan, calls=calls), HIDDEN)


def test_a_plan_may_have_no_head() -> None:
    check_head(replace(headed("decode"), head=None), HIDDEN)
    assert Head(1, 2) == Head(hidden=1, first=2)
