"""The table of step inputs: its rows, a row of somebody else, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.plan import InputSpec
from glmc_runtime.format.step_inputs import (
    STEP_INPUTS,
    TABLE,
    Column,
    StepInput,
    StepValues,
    names,
    register,
    step_input,
)
from glmc_runtime.replay.inputs import StepInputs, check_input
from glmc_runtime.replay.step import ScheduledTokens, Step
from tests.runtime.toy import toy_plan

STEP = Step([ScheduledTokens([7, 8, 9], 0, [5]), ScheduledTokens([4], 4, [2, 3])], 6, 3, 4)


def _lengths(step: StepValues) -> Column:
    return [len(chunk.tokens) for chunk in step.chunks] + [0] * step.absent


def _pairs(step: StepValues) -> list[list[int]]:
    return [[chunk.start, len(chunk.tokens)] for chunk in step.chunks] + [[]] * step.absent


LENGTHS = StepInput("lengths", "int64", ("sequences",), "new tokens", _lengths, host_twin=True)
PAIRS = StepInput("pairs", "int32", ("sequences", TABLE), "starts and lengths", rows=_pairs)


@pytest.fixture
def registered() -> Iterator[None]:
    for row in (LENGTHS, PAIRS):
        register(row)
    yield
    for row in (LENGTHS, PAIRS):
        del STEP_INPUTS[row.name]


@pytest.mark.parametrize("staged", [False, True])
def test_a_step_is_filled_with_the_values_of_the_table(staged: bool) -> None:
    specs = toy_plan("prefill").inputs
    inputs = StepInputs(specs, STEP.sizes, torch.device("cpu"), staged)
    inputs.fill(STEP)
    for spec in specs:
        expected = step_input(spec.name).values(STEP, 16)
        assert inputs.view(spec.name, None, STEP.sizes).tolist() == expected, spec.name


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("staged", [False, True])
def test_a_row_of_somebody_else_is_checked_and_filled_like_ours(staged: bool) -> None:
    rows, table = (Extent.of(sequences=1),), (Extent.of(sequences=1), Extent(constant=2))
    specs = (
        InputSpec("lengths", "int32", rows),
        InputSpec("pairs", "int32", table),
        InputSpec("lengths_host", "int64", rows),
    )
    for spec in specs:
        check_input(spec, 2)
    with pytest.raises(PlanError, match="another shape"):
        check_input(InputSpec("lengths", "int32", table), 2)
    inputs = StepInputs(specs, STEP.sizes, torch.device("cpu"), staged)
    inputs.fill(STEP)
    assert inputs.view("lengths", None, STEP.sizes).tolist() == [3, 1, 0]
    assert inputs.view("lengths_host", None, STEP.sizes).tolist() == [3, 1, 0]
    assert inputs.view("pairs", None, STEP.sizes).tolist() == [[0, 3], [4, 1], [0, 0]]
    assert {"lengths", "lengths_host", "pairs"} < set(names())


def test_only_inputs_with_a_twin_are_asked_for_in_host_memory() -> None:
    assert step_input("cu_seqlens_q_host") is step_input("cu_seqlens_q")
    for name in ("token_ids_host", "mood", "_host"):
        with pytest.raises(PlanError, match=f"'{name}' is no step input"):
            step_input(name)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (replace(LENGTHS, name="positions"), "can't be the name"),
        (replace(LENGTHS, name="lengths_host"), "can't be the name"),
        (replace(LENGTHS, column=None), "nothing fills"),
        (replace(LENGTHS, rows=_pairs), "nothing fills"),
        (replace(PAIRS, rows=None, column=_lengths), "nothing fills"),
        (replace(LENGTHS, shape=("sequences", "tokens")), "nothing fills"),
    ],
)
def test_a_row_that_nothing_fills_or_that_is_there_is_refused(row: StepInput, message: str) -> None:
    before = dict(STEP_INPUTS)
    with pytest.raises(PlanError, match=message):
        register(row)
    assert before == STEP_INPUTS
