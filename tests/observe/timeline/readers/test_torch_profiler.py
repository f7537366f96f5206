"""torch.profiler's traces: the real one of vLLM, what is written by hand, and one made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc.errors import UsageError
from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.steps import NO_STEPS, work_by_step
from glmc.observe.timeline.table import Kind, Timeline, TimelineEvent
from tests.observe.timeline.sample import DECODE, VLLM


def row(cat: str, name: str, ts: float, dur: float, **args: Any) -> dict[str, Any]:
    device = cat in ("kernel", "gpu_memcpy", "gpu_user_annotation")
    pid, tid = (0, 7) if device else (50, 50)
    if device:
        args = {"device": 0, "stream": 7, **args}
    return {
        "ph": "X",
        "cat": cat,
        "name": name,
        "pid": pid,
        "tid": tid,
        "ts": ts,
        "dur": dur,
        "args": args,
    }


def read(folder: Path, *rows: dict[str, Any]) -> Timeline:
    path = folder / "trace.json"
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": rows}))
    return open_timeline(path)


def only(made: Timeline, name: str) -> TimelineEvent:
    (event,) = (event for event in made.events if event.name == name)
    return event


def test_a_trace_of_sglang_was_not_tried(tmp_path: Path) -> None:
    kernel = row("kernel", "k", 10, 5)
    for name, tried in (("step[DECODE bs=16]", False), ("mine", True)):
        made = read(tmp_path, row("user_annotation", name, 0, 100), kernel)
        assert made.facts.tried is tried


def test_a_real_trace_of_vllm() -> None:
    made = open_timeline(VLLM)
    assert (
        made.facts.tried
        and made.facts.source == "torch.profiler"
        and made.facts.device == "NVIDIA H200"
    )
    assert [step.kind for step in made.steps] == [DECODE] * 3
    assert all(step.replayed for step in made.steps)
    steps = work_by_step(made)
    assert {number: len(events) for number, events in steps.items()} == {0: 289, 1: 289, 2: 289}
    graph = [event for event in steps[0] if event.name.startswith("nvjet")]
    assert {event.correlation for event in graph[:-1]} == {graph[0].correlation}
    assert graph[-1].op == "aten::mm" and graph[-1].correlation != graph[0].correlation
    assert {event.lane for event in steps[0]} == {
        "device 0 stream 7",
        "device 0 stream 13",
        "device 0 stream 1259",
    }
    # The choice of a token comes after the range of its step has ended, and is of it all the same.
    sampled = [event for event in steps[0] if op_class(event) == "sampling"]
    assert len(sampled) == 1


def test_a_kernel_is_joined_to_its_launch_and_to_the_op_around_it(tmp_path: Path) -> None:
    made = read(
        tmp_path,
        row("cpu_op", "aten::linear", 0, 30, **{"External id": 5}),
        row("cpu_op", "aten::mm", 2, 20, **{"External id": 6}),
        row("cuda_runtime", "cudaLaunchKernel", 4, 6, correlation=9, **{"External id": 6}),
        row("kernel", "nvjet_x", 40, 8, correlation=9, **{"External id": 6}),
        row("gpu_memcpy", "Memcpy HtoD", 50, 1, correlation=11, bytes=256),
    )
    product = only(made, "nvjet_x")
    assert product.op == "aten::mm" and product.kind is Kind.KERNEL
    assert (product.launched_us, product.queued_us) == (4, 10)
    copy = only(made, "Memcpy HtoD")
    assert copy.kind is Kind.COPY and copy.bytes == 256 and copy.queued_us is None


def test_modules_are_those_around_the_launch(tmp_path: Path) -> None:
    made = read(
        tmp_path,
        row("python_function", "nn.Module: Glm4MoeDecoderLayer_2", 0, 50),
        row("python_function", "glm.py(12): forward", 0, 50),
        row("python_function", "nn.Module: Glm4MoeAttention_2", 1, 30),
        row("cuda_runtime", "cudaLaunchKernel", 4, 6, correlation=9),
        row("kernel", "nvjet_x", 60, 8, correlation=9),
    )
    product = only(made, "nvjet_x")
    assert product.module == "Glm4MoeDecoderLayer_2/Glm4MoeAttention_2" and product.layer == 2
    assert made.facts.layers == "by module"


def test_ranges_named_after_modules_are_modules(tmp_path: Path) -> None:
    made = read(
        tmp_path,
        row("user_annotation", "model.layers.3.self_attn", 0, 50),
        row("cuda_runtime", "cudaLaunchKernel", 4, 6, correlation=9),
        row("kernel", "nvjet_x", 60, 8, correlation=9),
    )
    assert only(made, "nvjet_x").module == "model.layers.3.self_attn"
    assert only(made, "nvjet_x").layer == 3


def test_a_range_may_have_the_class_behind_the_path(tmp_path: Path) -> None:
    made = read(
        tmp_path,
        row("user_annotation", "model.norm Glm4MoeRMSNorm", 0, 50),
        row("cuda_runtime", "cudaLaunchKernel", 4, 6, correlation=9),
        row("kernel", "at::native::reduce_kernel<512>", 60, 8, correlation=9),
        row("user_annotation", "lm_head Linear", 100, 50),
        row("user_annotation", "generation of tokens", 101, 40),
        row("cuda_runtime", "cudaLaunchKernel", 104, 6, correlation=10),
        row("kernel", "nvjet_x", 160, 8, correlation=10),
    )
    norm = only(made, "at::native::reduce_kernel<512>")
    assert norm.module == "model.norm" and op_class(norm) == "norm"
    assert only(made, "nvjet_x").module == "lm_head"


def test_a_collective_is_one(tmp_path: Path) -> None:
    made = read(tmp_path, row("kernel", "ncclDevKernel_AllReduce_Sum_bf16", 60, 8))
    assert made.events[0].kind is Kind.COLLECTIVE


def test_steps_of_the_profiler_where_no_engine_names_any(tmp_path: Path) -> None:
    made = read(
        tmp_path,
        row("user_annotation", "ProfilerStep#4", 0, 10),
        row("user_annotation", "ProfilerStep#5", 20, 10),
        row("kernel", "nvjet_x", 25, 8),
    )
    assert [step.name for step in made.steps] == ["ProfilerStep#4", "ProfilerStep#5"]
    assert only(made, "nvjet_x").step == 1


def test_a_file_without_steps_says_what_is_taken_as_one(tmp_path: Path) -> None:
    kernels = row("kernel", "nvjet_x", 25, 8), row("kernel", "nvjet_x", 35, 8)
    first, second = read(tmp_path, *kernels).facts.remarks
    assert first == NO_STEPS and "schedule=" in second and "docs/timeline.md#steps" in second
    step = row("user_annotation", "ProfilerStep#4", 0, 10)
    assert read(tmp_path, step, *kernels).facts.remarks == ()


def test_an_empty_trace_names_the_schedule(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no work of a device") as caught:
        read(tmp_path, row("user_annotation", "ProfilerStep#1", 0, 10))
    assert "repeat=1" in str(caught.value) and "--help" not in str(caught.value)


def test_ranges_of_the_device_where_the_host_has_none(tmp_path: Path) -> None:
    made = read(
        tmp_path,
        row("gpu_user_annotation", "step[DECODE bs=1]", 0, 10),
        row("gpu_user_annotation", "step[DECODE bs=1]", 20, 10),
        row("kernel", "nvjet_x", 25, 8),
    )
    assert made.steps[1].on_device and only(made, "nvjet_x").step == 1


def test_a_trace_made_here_without_a_device(tmp_path: Path) -> None:
    layers = torch.nn.ModuleList([torch.nn.Linear(8, 8) for _ in range(3)])
    with torch.profiler.profile(with_stack=True, with_modules=True) as profiler:
        x = torch.zeros(2, 8)
        for layer in layers:
            x = torch.nn.functional.silu(layer(x))
    path = tmp_path / "cpu.json"
    profiler.export_chrome_trace(str(path))
    made = open_timeline(path)
    assert "no device in the file" in made.facts.remarks[0] and made.facts.device == "cpu"
    work = work_by_step(made)[0]
    assert sum(op_class(event) == "linear" for event in work) == 3
    assert sum(op_class(event) == "activation" for event in work) == 3
    assert not any(event.name == "aten::addmm" for event in work), "it is inside aten::linear"
