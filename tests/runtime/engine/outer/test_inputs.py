"""Step inputs from an outer engine's tensors are those that a step of our own has."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from glmc_runtime.engine.outer.device_inputs import DeviceInputs
from glmc_runtime.engine.outer.inputs import OuterInputs, PaddedStep
from glmc_runtime.engine.outer.step import OuterStep
from glmc_runtime.errors import PlanError, RequestError
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.plan import HOST_SUFFIX, InputSpec, PhasePlan
from glmc_runtime.format.step_inputs import STEP_INPUTS, StepInput
from glmc_runtime.replay.inputs import StepInputs
from glmc_runtime.replay.step import ScheduledTokens, Step
from tests.runtime.engine.outer.steps import outer_step

CPU = torch.device("cpu")
SIZE, WIDTH, SCRATCH = 4, 6, 0
LARGEST = {"tokens": 16, "sequences": 8}


def plan(phase: str, dtype: str = "int32", names: tuple[str, ...] = ()) -> PhasePlan:
    """A plan with every step input, on the device and, where there is a twin, on the host."""
    rows = [STEP_INPUTS[name] for name in names] or list(STEP_INPUTS.values())
    specs = [InputSpec(row.name, dtype, row.shape_of(WIDTH)) for row in rows]
    specs += [
        InputSpec(row.name + HOST_SUFFIX, dtype, row.shape_of(WIDTH))
        for row in rows
        if row.host_twin
    ]
    return PhasePlan(phase, tuple(specs), (), (), (), 0, Extent())


@pytest.fixture(params=[False, True], ids=["copied", "by a kernel"])
def by_kernel(request: pytest.FixtureRequest) -> bool:
    """Whether inputs on the device are filled by a launch, here in Triton's interpreter."""
    kernel: bool = request.param
    if kernel:
        pytest.importorskip("triton", minversion="3.2")  # as the target cuda asks for
    return kernel


def filled(
    phase: PhasePlan, scratch: int = SCRATCH, by_kernel: bool = False
) -> tuple[OuterInputs, StepInputs]:
    memory = StepInputs(phase.inputs, LARGEST, CPU)
    return OuterInputs(phase, memory, LARGEST, CPU, SIZE, scratch, by_kernel), memory


def fill(inputs: OuterInputs, step: PaddedStep | Step) -> None:
    """As a phase does: what fills inputs on the device runs before the calls."""
    inputs.fill(step)
    for thunk in inputs.thunks(step.sizes):
        thunk()


PREFILL = [
    ScheduledTokens((5, 6, 7), 2, [3, 1]),
    ScheduledTokens((8,), 7, [4, 2]),
    ScheduledTokens((9, 10), 0, [6]),
]
DECODE = [
    ScheduledTokens((5,), 2, [3]),
    ScheduledTokens((8,), 7, [4, 2]),
    ScheduledTokens((9,), 0, [6]),
]


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize(
    ("phase", "chunks", "sizes"),
    [("prefill", PREFILL, (16, 3)), ("prefill", PREFILL, (6, 3)), ("decode", DECODE, (8, 8)),
     ("decode", DECODE, (3, 3))],
)  # fmt: skip
def test_they_are_padded_alike(
    phase: str, chunks: list[ScheduledTokens], sizes: tuple[int, int], dtype: str, by_kernel: bool
) -> None:
    ours, (inputs, memory) = (
        StepInputs(plan(phase, dtype).inputs, LARGEST, CPU),
        filled(plan(phase, dtype), SCRATCH, by_kernel),
    )
    step = Step(chunks, *sizes, SIZE)
    ours.fill(step)
    fill(inputs, PaddedStep(outer_step(chunks, SIZE, WIDTH + 2), *sizes))
    for spec in plan(phase).inputs:
        expected = ours.view(spec.name, None, step.sizes)
        assert torch.equal(memory.view(spec.name, None, step.sizes), expected), spec.name


def test_steps_after_one_another_leave_nothing_behind(by_kernel: bool) -> None:
    inputs, memory = filled(plan("decode"), SCRATCH, by_kernel)
    ours = StepInputs(plan("decode").inputs, LARGEST, CPU)
    for chunks in (DECODE, DECODE[:1], DECODE[1:]):
        step = Step(chunks, 4, 4, SIZE)
        ours.fill(step)
        fill(inputs, PaddedStep(outer_step(chunks, SIZE, WIDTH), 4, 4))
        for spec in plan("decode").inputs:
            expected = ours.view(spec.name, None, step.sizes)
            actual = memory.view(spec.name, None, step.sizes)
            if spec.name == "block_tables":  # nothing after the first block of a row is read
                expected, actual = expected[len(chunks) :, :1], actual[len(chunks) :, :1]
            assert torch.equal(actual, expected), spec.name


def test_a_narrower_table_names_no_block_of_an_earlier_step(by_kernel: bool) -> None:
    inputs, memory = filled(plan("decode"), SCRATCH, by_kernel)
    fill(inputs, PaddedStep(outer_step([ScheduledTokens((5,), 7, [4, 2])], SIZE, 2), 1, 1))
    fill(inputs, PaddedStep(outer_step([ScheduledTokens((5,), 2, [3])], SIZE, 1), 1, 1))
    table = memory.view("block_tables", None, {"tokens": 1, "sequences": 1})
    assert table.tolist() == [[3] + [0] * (WIDTH - 1)]


def test_padded_rows_go_to_the_scratch_block_of_the_engine(by_kernel: bool) -> None:
    inputs, memory = filled(plan("decode"), 9, by_kernel)
    fill(inputs, PaddedStep(outer_step(DECODE, SIZE, WIDTH), 8, 8))
    sizes = {"tokens": 8, "sequences": 8}
    slots = memory.view("slot_mapping", None, sizes)[3:]
    assert slots.tolist() == [9 * SIZE + row % SIZE for row in range(5)]
    assert memory.view("block_tables", None, sizes)[3:, 0].tolist() == [9] * 5


def test_what_is_computed_needs_no_input_of_its_source(by_kernel: bool) -> None:
    """Lasts and sums follow from inputs that this plan does not have."""
    names = ("cu_seqlens_k", "last_rows")
    inputs, memory = filled(plan("prefill", names=names), SCRATCH, by_kernel)
    fill(inputs, PaddedStep(outer_step(PREFILL, SIZE, WIDTH), 6, 3))
    sizes = {"tokens": 6, "sequences": 3}
    assert memory.view("cu_seqlens_k", None, sizes).tolist() == [0, 5, 13, 15]
    assert memory.view("last_rows", None, sizes).tolist() == [2, 3, 5]


@pytest.mark.parametrize("wide", [(), ("token_ids", "block_tables"), ("context_lengths",)])
def test_a_kernel_reads_numbers_of_either_size(wide: tuple[str, ...]) -> None:
    pytest.importorskip("triton", minversion="3.2")
    names = ("token_ids", "positions", "slot_mapping", "block_tables", "context_lengths")
    inputs, memory = filled(plan("decode"), SCRATCH, True)
    step = outer_step(DECODE, SIZE, WIDTH)
    kinds = {True: torch.int64, False: torch.int32}
    other = {name: getattr(step, name).to(kinds[name in wide]) for name in names}
    fill(inputs, PaddedStep(replace(step, **other), 4, 4))
    for name in names:
        view = memory.view(name, None, {"tokens": 4, "sequences": 4})
        source = other[name][:3]
        assert torch.equal(view[:3].long(), source.long()), name


def test_a_kernel_reads_where_the_tensors_are_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is written for a step whose tensors are elsewhere, and for no other."""
    pytest.importorskip("triton", minversion="3.2")
    inputs, memory = filled(plan("decode"), SCRATCH, True)
    written: list[tuple[int, ...]] = []
    write = DeviceInputs._write
    monkeypatch.setattr(
        DeviceInputs,
        "_write",
        lambda self, numbers: (
            written.append(numbers) if numbers != self._written else None,
            write(self, numbers),
        ),
    )
    step = outer_step(DECODE, SIZE, WIDTH)
    sizes = {"tokens": 4, "sequences": 4}
    fill(inputs, PaddedStep(step, 4, 4))
    step.token_ids.add_(1)
    fill(inputs, PaddedStep(step, 4, 4))
    assert memory.view("token_ids", None, sizes).tolist() == [6, 9, 10, 0]
    assert len(written) == 1
    moved = replace(step, token_ids=step.token_ids + 1)
    fill(inputs, PaddedStep(moved, 4, 4))
    assert memory.view("token_ids", None, sizes).tolist() == [7, 10, 11, 0]
    assert len(written) == 2
    # A step of our own is written by the host, and the launch leaves it as it is.
    fill(inputs, Step(DECODE, 4, 4, SIZE))
    assert memory.view("token_ids", None, sizes).tolist() == [5, 8, 9, 0]


def test_the_device_serves_for_the_host_only_where_it_is_the_host() -> None:
    inputs, _ = filled(plan("decode"))
    assert not inputs.needs_host_lengths
    far = StepInputs(plan("decode").inputs, LARGEST, torch.device("meta"))
    other = OuterInputs(plan("decode"), far, LARGEST, torch.device("meta"), SIZE, SCRATCH)
    assert other.needs_host_lengths
    step = outer_step(DECODE, SIZE, WIDTH)
    other.fill(PaddedStep(step, 4, 4))  # its lengths are in host memory
    sizes = {"tokens": 4, "sequences": 4}
    assert far.view("cu_seqlens_k_host", None, sizes).tolist() == [0, 3, 11, 12, 13]
    for name in ("context_lengths", "cu_seqlens_q"):
        lengths: torch.Tensor = getattr(step, name)
        away = replace(step, **{name: lengths.to("meta")})
        with pytest.raises(RequestError, match="in host memory") as caught:
            other.fill(PaddedStep(away, 4, 4))
        assert caught.value.expected == f"{name}_host"
        other.fill(PaddedStep(replace(away, **{f"{name}_host": lengths}), 4, 4))


def test_an_input_that_no_outer_step_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    row = StepInput("images", "int32", ("tokens",), "of the test", column=lambda step: [])
    monkeypatch.setitem(STEP_INPUTS, "images", row)
    with pytest.raises(PlanError, match="'images'"):
        filled(plan("prefill"))


def test_an_outer_step_says_whether_it_decodes() -> None:
    assert outer_step(DECODE, SIZE, WIDTH).is_decode
    assert not outer_step(PREFILL, SIZE, WIDTH).is_decode
    assert isinstance(outer_step(DECODE, SIZE, WIDTH), OuterStep)
