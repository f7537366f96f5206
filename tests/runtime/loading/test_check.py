"""Plans that contradict themselves are refused before anything is bound."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc_runtime.engine.assemble import assemble
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.errors import PlanError
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.phases import DECODE
from glmc_runtime.format.plan import (
    Argument,
    BufferArgument,
    CacheArgument,
    InputArgument,
    PhasePlan,
    Segment,
    WeightArgument,
)
from glmc_runtime.format.plan_json import phase_from_json, phase_to_json
from glmc_runtime.kernels import find_binder, register
from glmc_runtime.loading.check import check_plan
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.replay.arena import Arena
from tests.runtime.toy import toy_plan


@pytest.fixture(scope="module")
def manifest(toy_path: Path) -> Manifest:
    return load_artifact(toy_path).manifest


def test_the_toy_is_legal(manifest: Manifest) -> None:
    for phase in ("prefill", "decode"):
        check_plan(toy_plan(phase), manifest)
        check_plan(toy_plan(phase, greedy=True), manifest)


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        (BufferArgument(99), "no buffer 99"),
        (InputArgument("cu_seqlens_k_host"), "no step input"),
        (WeightArgument("nothing"), "no weight 'nothing'"),
        (WeightArgument("head", (0, 1000)), "has no rows"),
        (WeightArgument("head", (5, 4)), "has no rows"),
        (CacheArgument("key", 1), "no cache"),
        (CacheArgument("query", 0), "no cache"),
    ],
)
def test_arguments_that_point_nowhere(manifest: Manifest, argument: Argument, text: str) -> None:
    plan = toy_plan("decode")
    call = replace(plan.calls[2], arguments={**plan.calls[2].arguments, "x": argument})
    with pytest.raises(PlanError, match=text):
        check_plan(replace(plan, calls=(*plan.calls[:2], call, *plan.calls[3:])), manifest)


@pytest.mark.parametrize(
    "segments",
    [
        (),
        (Segment(0, 5, True),),
        (Segment(0, 5, True), Segment(5, 9, True)),
        (Segment(0, 5, True), Segment(7, 9, True)),
        (Segment(0, 10, True),),
    ],
)
def test_segments_must_cover_the_calls(manifest: Manifest, segments: tuple[Segment, ...]) -> None:
    with pytest.raises(PlanError, match="do not cover"):
        check_plan(replace(toy_plan("decode"), segments=segments), manifest)


def _with_buffer(plan: PhasePlan, **changes: Any) -> PhasePlan:
    return replace(plan, buffers=(replace(plan.buffers[0], **changes), *plan.buffers[1:]))


def test_buffers_must_lie_in_the_arena(manifest: Manifest) -> None:
    plan = toy_plan("prefill")
    for offset in (plan.arena, Extent.of(tokens=10**6), Extent.of(sequences=10**6)):
        with pytest.raises(PlanError, match="beyond the arena"):
            check_plan(_with_buffer(plan, offset=offset), manifest)
    with pytest.raises(PlanError, match="before the arena"):
        check_plan(_with_buffer(plan, offset=Extent(constant=-4)), manifest)
    square = (Extent.of(tokens=1), Extent.of(tokens=1))
    with pytest.raises(PlanError, match="not linear"):
        check_plan(_with_buffer(plan, shape=square), manifest)
    with pytest.raises(PlanError, match="same id"):
        check_plan(_with_buffer(plan, id=1), manifest)
    with pytest.raises(PlanError, match="no dtype"):
        check_plan(_with_buffer(plan, dtype="float7"), manifest)
    with pytest.raises(PlanError, match="unknown buffer"):
        check_plan(replace(plan, output=99), manifest)


def test_greedy_tokens_are_what_the_last_call_writes_and_live_to_the_end(
    manifest: Manifest,
) -> None:
    plan = toy_plan("decode", greedy=True)
    assert phase_from_json(phase_to_json(plan)) == plan
    assert "greedy" not in phase_to_json(toy_plan("decode"))
    chosen = plan.buffers[-1]
    assert plan.greedy == chosen.id

    def refused(plan: PhasePlan, text: str) -> None:
        with pytest.raises(PlanError, match=text):
            check_plan(plan, manifest)

    for changes in (
        {"dtype": "int32"},
        {"shape": (Extent.of(tokens=1),)},
        {"shape": (Extent.of(sequences=1), Extent(constant=1))},
    ):
        other = replace(chosen, **changes)
        refused(replace(plan, buffers=(*plan.buffers[:-1], other)), "no token ids")
    refused(replace(plan, greedy=99), "in no buffer")
    refused(replace(plan, greedy=plan.output), "no token ids")
    refused(replace(toy_plan("decode"), greedy=plan.output), "no token ids")
    early = replace(chosen, last=len(plan.calls) - 2)
    refused(replace(plan, buffers=(*plan.buffers[:-1], early)), "not alive")
    segments = (*plan.segments[:-1], replace(plan.segments[-1], last=len(plan.calls) - 2))
    refused(
        replace(plan, calls=plan.calls[:-1], segments=segments), "not what its last call writes"
    )
    with pytest.raises(PlanError, match="not well formed"):
        phase_from_json({**phase_to_json(plan), "greedy": "last"})


def test_writes_must_be_arguments(manifest: Manifest) -> None:
    plan = toy_plan("decode")
    call = replace(plan.calls[0], writes=("result",))
    with pytest.raises(PlanError, match="writes 'result'"):
        check_plan(replace(plan, calls=(call, *plan.calls[1:])), manifest)


@pytest.mark.parametrize("argument", [WeightArgument("head"), InputArgument("positions")])
def test_only_buffers_and_caches_are_written(manifest: Manifest, argument: Argument) -> None:
    plan = toy_plan("decode")
    call = plan.calls[0]
    arguments = {**call.arguments, call.writes[0]: argument}
    with pytest.raises(PlanError, match="neither a buffer nor a cache"):
        check_plan(
            replace(plan, calls=(replace(call, arguments=arguments), *plan.calls[1:])), manifest
        )


@pytest.mark.parametrize(
    "function",
    [
        "kunlun_ops.CDLL",
        "xspeedgate_ops.load",
        "os.system",
        "aten.any",
        "aten.any_in_place",
        "cpu.rope",
        "cpu.masked_attention",
    ],
)
def test_only_known_functions_are_called(manifest: Manifest, function: str) -> None:
    importlib.import_module("glmc_runtime.kernels.traced")  # knows more, for other plans
    plan = toy_plan("decode")
    call = replace(plan.calls[0], function=function)
    with pytest.raises(PlanError, match=r"calls no vendor function|has no kernel"):
        check_plan(replace(plan, calls=(call, *plan.calls[1:])), manifest)


def test_buffers_alive_at_once_share_no_memory(manifest: Manifest) -> None:
    plan = toy_plan("prefill")
    first, second = plan.buffers[0], plan.buffers[1]
    over = replace(second, offset=first.offset)
    with pytest.raises(PlanError, match="alive at once"):
        check_plan(replace(plan, buffers=(first, over, *plan.buffers[2:])), manifest)
    # One bucket alone would not show it: these two meet only when every token is a sequence.
    by_sequence = replace(second, offset=Extent.of(sequences=first.shape[1].constant * 4))
    with pytest.raises(PlanError, match="alive at once"):
        check_plan(replace(plan, buffers=(first, by_sequence, *plan.buffers[2:])), manifest)


def test_buffers_are_used_while_alive(manifest: Manifest) -> None:
    plan = toy_plan("prefill")
    with pytest.raises(PlanError, match="not alive"):
        check_plan(_with_buffer(plan, first=1), manifest)
    logits = next(buffer for buffer in plan.buffers if buffer.id == plan.output)
    short = replace(logits, last=len(plan.calls) - 2)
    buffers = tuple(short if buffer is logits else buffer for buffer in plan.buffers)
    with pytest.raises(PlanError, match="not alive"):
        check_plan(replace(plan, buffers=buffers), manifest)


def test_arena_views_share_memory_and_stay_inside() -> None:
    arena = Arena(64, torch.device("cpu"))
    arena.view(8, torch.float32, (2, 3)).fill_(1.5)
    assert arena.view(8, torch.float32, (6,)).tolist() == [1.5] * 6
    assert arena.view(0, torch.float32, (2,)).tolist() == [0.0, 0.0]
    for offset, shape in ((2, (1,)), (60, (2,)), (-4, (1,))):
        with pytest.raises(PlanError, match="outside the arena"):
            arena.view(offset, torch.float32, shape)


def _captured_everywhere(plan: PhasePlan) -> PhasePlan:
    segments = tuple(replace(segment, captured=True) for segment in plan.segments)
    return replace(plan, segments=segments)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_captured_segment_holds_no_call_that_changes(manifest: Manifest, phase: str) -> None:
    plan = toy_plan(phase)
    attention = next(number for number, call in enumerate(plan.calls) if call.host)
    with pytest.raises(PlanError, match="changes from step to step") as caught:
        check_plan(_captured_everywhere(plan), manifest)
    assert plan.calls[attention].function in caught.value.place
    assert "layer 0" in caught.value.place
    # Not marked as a reader of host memory, it still follows the real counts.
    unmarked = replace(plan.calls[attention], host=False)
    calls = (*plan.calls[:attention], unmarked, *plan.calls[attention + 1 :])
    with pytest.raises(PlanError, match="real counts"):
        check_plan(_captured_everywhere(replace(plan, calls=calls)), manifest)


def test_real_counts_without_a_symbol_may_be_captured(manifest: Manifest) -> None:
    plan = toy_plan("decode")
    buffer = replace(plan.buffers[0], id=98, shape=(Extent(constant=1),), offset=plan.arena)
    plan = replace(plan, buffers=(*plan.buffers, buffer), arena=plan.arena + Extent(constant=4))
    last = replace(plan.segments[-1], last=len(plan.calls))
    assert last.captured
    for number, refused in ((plan.buffers[0].id, True), (98, False)):
        zero = replace(
            plan.calls[2],
            function="aten.zero",
            arguments={"out": BufferArgument(number, real=True)},
        )
        changed = replace(plan, calls=(*plan.calls, zero), segments=(*plan.segments[:-1], last))
        if refused:
            with pytest.raises(PlanError, match="real counts"):
                check_plan(changed, manifest)
        else:
            check_plan(changed, manifest)


def test_an_input_of_the_plans_own_shape_counts_as_well(manifest: Manifest) -> None:
    plan = toy_plan("decode")
    call = plan.calls[0]
    name = next(name for name, item in call.arguments.items() if isinstance(item, InputArgument))
    arguments = {**call.arguments, name: InputArgument("token_ids", real=True)}
    changed = replace(plan, calls=(replace(call, arguments=arguments), *plan.calls[1:]))
    with pytest.raises(PlanError, match="real counts"):
        check_plan(changed, manifest)


def test_a_load_refuses_a_changing_call_in_a_segment_on_every_machine(toy_path: Path) -> None:
    artifact = load_artifact(toy_path)
    artifact.plans[DECODE.key] = _captured_everywhere(artifact.plans[DECODE.key])
    with pytest.raises(PlanError, match="changes from step to step"):
        assemble(artifact, LoadOptions())


def test_unknown_kernels_and_double_registration() -> None:
    for name in ("test.nothing", "nowhere.copy", "aten.nothing", "..os.system", "plain"):
        with pytest.raises(PlanError, match="no kernel"):
            find_binder(name)
    with pytest.raises(PlanError, match="registered twice"):
        register("aten.copy")(find_binder("aten.copy"))
