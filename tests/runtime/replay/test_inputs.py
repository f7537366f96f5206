"""Step inputs: values, padding, stale block tables, and the buckets that decide the padding."""

from __future__ import annotations

import random
from array import array
from types import SimpleNamespace

import pytest
import torch

from glmc_runtime.errors import ArtifactError, CapacityError, PlanError
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.plan import InputSpec
from glmc_runtime.replay.buckets import Buckets
from glmc_runtime.replay.inputs import STAGES, StepInputs, check_input
from glmc_runtime.replay.step import ScheduledTokens, Step
from tests.runtime.toy import toy_plan

CPU = torch.device("cpu")
LONG = (("token_ids", "int64"), ("positions", "int32"), ("slot_mapping", "int64"))


def _sizes(tokens: int, sequences: int) -> dict[str, int]:
    return {"tokens": tokens, "sequences": sequences}


def _values(inputs: StepInputs, name: str, step: Step) -> list[int]:
    values: list[int] = inputs.view(name, None, step.sizes).tolist()
    return values


@pytest.mark.parametrize("size", [2**50, 2**80])
def test_inputs_that_no_machine_holds_are_refused(size: int) -> None:
    with pytest.raises(CapacityError, match="inputs of a step do not fit into memory"):
        StepInputs(toy_plan("prefill").inputs, _sizes(size, 4), CPU)


def test_a_ragged_prefill_step_with_padding() -> None:
    inputs = StepInputs(toy_plan("prefill").inputs, _sizes(16, 4), CPU)
    chunks = [ScheduledTokens([11, 12, 13], 0, [5]), ScheduledTokens([21, 22], 3, [2, 7])]
    step = Step(chunks, 8, 2, 4)
    inputs.fill(step)
    assert _values(inputs, "token_ids", step) == [11, 12, 13, 21, 22, 0, 0, 0]
    assert _values(inputs, "positions", step) == [0, 1, 2, 3, 4, 0, 0, 0]
    assert _values(inputs, "slot_mapping", step) == [20, 21, 22, 11, 28, 0, 1, 2]
    assert _values(inputs, "context_lengths", step) == [3, 5]
    assert _values(inputs, "context_lengths_host", step) == [3, 5]
    assert _values(inputs, "cu_seqlens_q", step) == [0, 3, 5]
    assert _values(inputs, "cu_seqlens_k", step) == [0, 3, 8]
    assert _values(inputs, "last_rows", step) == [2, 4]
    table = torch.tensor(_values(inputs, "block_tables", step))
    assert table[0].tolist() == [5] + [0] * 15
    assert table[1].tolist() == [2, 7] + [0] * 14


def test_a_decode_step_pads_into_the_scratch_block() -> None:
    inputs = StepInputs(toy_plan("decode").inputs, _sizes(4, 4), CPU)
    step = Step([ScheduledTokens((9,), 5, [3, 1])], 4, 4, 4)
    inputs.fill(step)
    assert _values(inputs, "token_ids", step) == [9, 0, 0, 0]
    assert _values(inputs, "slot_mapping", step) == [5, 0, 1, 2]
    assert _values(inputs, "context_lengths", step) == [6, 1, 1, 1]
    assert _values(inputs, "cu_seqlens_q", step) == [0, 1, 2, 3, 4]


def test_nothing_of_an_earlier_step_is_left_in_the_block_table() -> None:
    inputs = StepInputs(toy_plan("decode").inputs, _sizes(4, 4), CPU)
    inputs.fill(Step([ScheduledTokens((1,), 50, list(range(1, 14)))] * 3, 4, 4, 4))
    step = Step([ScheduledTokens((1,), 0, [9])], 4, 4, 4)
    inputs.fill(step)
    table = torch.tensor(_values(inputs, "block_tables", step))
    assert table.sum() == 9


def test_padding_is_spread_over_the_scratch_block() -> None:
    inputs = StepInputs(toy_plan("prefill").inputs, _sizes(16, 4), CPU)
    step = Step([ScheduledTokens([1], 0, [2])], 8, 1, 4)
    inputs.fill(step)
    assert _values(inputs, "slot_mapping", step)[1:] == [0, 1, 2, 3, 0, 1, 2]


@pytest.mark.parametrize("as_array", [False, True])
def test_long_chunks_over_blocks_that_lie_anyhow(as_array: bool) -> None:
    choose = random.Random(5)
    specs = tuple(InputSpec(name, kind, (Extent.of(tokens=1),)) for name, kind in LONG)
    inputs = StepInputs(specs, _sizes(800, 4), CPU)
    for _ in range(8):
        chunks = []
        for _ in range(choose.randint(1, 3)):
            blocks = choose.sample(range(1, 5000), 40)
            run = choose.randrange(30)
            blocks[run : run + 8] = range(blocks[run], blocks[run] + 8)
            tokens = [choose.randrange(99) for _ in range(choose.randint(1, 250))]
            start = choose.randrange(300)
            chunks.append(
                ScheduledTokens(array("q", tokens) if as_array else tokens, start, blocks)
            )
        step = Step(chunks, 800, len(chunks), 16)
        inputs.fill(step)
        rows = [(chunk, place) for chunk in chunks for place in range(len(chunk.tokens))]
        padding = [0] * step.padding
        assert _values(inputs, "token_ids", step) == [c.tokens[at] for c, at in rows] + padding
        positions = [chunk.start + place for chunk, place in rows]
        assert _values(inputs, "positions", step) == positions + padding
        slots = [
            chunk.blocks[position // 16] * 16 + position % 16
            for (chunk, _), position in zip(rows, positions, strict=True)
        ]
        assert _values(inputs, "slot_mapping", step)[: len(rows)] == slots


STAGED = pytest.mark.parametrize("staged", [False, True])


def _random_step(choose: random.Random, phase: str) -> Step:
    count = choose.randint(1, 4)
    lengths = [1 if phase == "decode" else choose.randint(1, 4) for _ in range(count)]
    chunks = [
        ScheduledTokens(
            [choose.randrange(64) for _ in range(length)],
            choose.randrange(40),
            [choose.randrange(1, 99) for _ in range(choose.randint(11, 16))],
        )
        for length in lengths
    ]
    if phase == "decode":
        return Step(chunks, 4, 4, 4)
    return Step(chunks, 16, count, 4)


@STAGED
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_every_step_reads_its_own_values(phase: str, staged: bool) -> None:
    """Whichever block of host memory they come from, and whatever it held before."""
    choose = random.Random(3)
    specs = toy_plan(phase).inputs
    inputs = StepInputs(specs, _sizes(16, 4), CPU, staged)
    for number in range(4 * STAGES):
        step = _random_step(choose, phase)
        given = None
        if number % 2:
            given = torch.tensor([choose.randrange(64) for _ in range(16)])
        inputs.fill(step, given)
        fresh = StepInputs(specs, _sizes(16, 4), CPU, False)
        fresh.fill(step)
        for spec in specs:
            expected = _values(fresh, spec.name, step)
            if spec.name == "token_ids" and given is not None:
                expected = given[: step.tokens].tolist()
            assert _values(inputs, spec.name, step) == expected, spec.name


@STAGED
def test_ids_from_the_device_are_cast_and_those_of_the_step_not_looked_at(staged: bool) -> None:
    specs = (
        InputSpec("positions", "int64", (Extent.of(tokens=1),)),
        InputSpec("token_ids", "int32", (Extent.of(tokens=1),)),
    )
    inputs = StepInputs(specs, _sizes(4, 4), CPU, staged)
    step = Step([ScheduledTokens((-5,), 3, [1])], 2, 2, 4)
    inputs.fill(step, torch.tensor([7, 8, 9]))
    assert _values(inputs, "token_ids", step) == [7, 8]
    assert _values(inputs, "positions", step) == [3, 0]
    with pytest.raises(PlanError, match="does not declare"):
        StepInputs(specs[:1], _sizes(4, 4), CPU, staged).fill(step, torch.tensor([1, 2]))


def test_a_stage_is_written_again_only_when_its_copy_has_run() -> None:
    inputs = StepInputs(toy_plan("decode").inputs, _sizes(4, 4), CPU, True)
    log: list[str] = []
    for number, stage in enumerate(inputs._stages):
        stage.copied = SimpleNamespace(
            synchronize=lambda number=number: log.append(f"wait {number}"),
            record=lambda number=number: log.append(f"copy {number}"),
        )
        table = next(writer for writer in stage.writers if writer.field.width)
        write = table._write_rows
        table._write_rows = lambda step, number=number, write=write: (  # type: ignore[method-assign]
            log.append(f"write {number}"),
            write(step),
        )[1]
    step = Step([ScheduledTokens((9,), 5, [3, 1])], 4, 4, 4)
    for _ in range(STAGES + 1):
        inputs.fill(step)
    turns = [f"{verb} {number}" for number in range(STAGES) for verb in ("wait", "write", "copy")]
    assert log == [*turns, "wait 0", "write 0", "copy 0"]


def test_host_inputs_stay_where_they_are_and_are_those_of_the_last_step() -> None:
    inputs = StepInputs(toy_plan("decode").inputs, _sizes(4, 4), CPU, True)
    view = inputs.view("context_lengths_host", (4,), _sizes(4, 4))
    for start in range(2 * STAGES):
        inputs.fill(Step([ScheduledTokens((9,), start, [3, 1, 2])], 4, 4, 4))
        assert view.tolist() == [start + 1, 1, 1, 1]


def test_unknown_inputs_and_dtypes_are_refused() -> None:
    rows = (Extent.of(tokens=1),)
    check_input(InputSpec("positions", "int32", rows), 16)
    with pytest.raises(PlanError, match="no step input"):
        check_input(InputSpec("mood", "int32", rows), 16)
    with pytest.raises(PlanError, match="can't be float32"):
        check_input(InputSpec("positions", "float32", rows), 16)
    for shape in (
        (Extent(constant=1),),
        (Extent.of(sequences=1),),
        (*rows, Extent(constant=2)),
        (),
    ):
        with pytest.raises(PlanError, match="another shape"):
            check_input(InputSpec("positions", "int64", shape), 16)
    table = (Extent.of(sequences=1), Extent(constant=15))
    with pytest.raises(PlanError, match="another shape"):
        check_input(InputSpec("block_tables", "int32", table), 16)
    inputs = StepInputs(toy_plan("decode").inputs, _sizes(4, 4), CPU)
    with pytest.raises(PlanError, match="too large"):
        inputs.view("positions", (5,), _sizes(4, 4))
    with pytest.raises(PlanError, match="does not declare"):
        inputs.view("cu_seqlens_k_host", None, _sizes(4, 4))


@pytest.mark.parametrize(("count", "bucket"), [(1, 1), (2, 2), (3, 8), (8, 8)])
def test_the_smallest_bucket_that_holds_the_step(count: int, bucket: int) -> None:
    assert Buckets("decode", (1, 2, 8)).choose(count) == bucket


def test_beyond_the_largest_bucket_and_bad_buckets() -> None:
    with pytest.raises(CapacityError, match="beyond the largest bucket"):
        Buckets("decode", (1, 2)).choose(3)
    for sizes in ((), (2, 1), (0, 1), (1, 1)):
        with pytest.raises(ArtifactError, match="not usable"):
            Buckets("decode", sizes)
