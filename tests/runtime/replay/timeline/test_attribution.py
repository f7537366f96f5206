"""Work of the device and the calls that it was for, from records as torch.profiler writes them."""

from __future__ import annotations

from typing import Any

import pytest

from glmc_runtime.replay.timeline.attribution import NOTHING_RECORDED, attributed, recording_of
from glmc_runtime.replay.timeline.graph_nodes import KERNEL, GraphNode, Nodes
from glmc_runtime.replay.timeline.kineto import Recorded, read_recorded
from glmc_runtime.replay.timeline.records import CallTime, StepSizes, StepTime

KEY = "decode, bucket 1, segment 0"
NODES: dict[str, Nodes] = {
    KEY: (
        GraphNode("step inputs", KERNEL, "fill", (1, 1, 1), (32, 1, 1), ()),
        GraphNode(0, KERNEL, "norm", (1, 1, 1), (32, 1, 1), (0,)),
        GraphNode(1, KERNEL, "gemm", (1, 1, 1), (32, 1, 1), (1,)),
        GraphNode(1, KERNEL, "reduce", (1, 1, 1), (32, 1, 1), (2,)),
    )
}
SIZES = StepSizes(1, 1, 1, 5, 5)


class Trace:
    """Builds events of a trace; times are microseconds after ``START``, as large as real ones."""

    START = 5264442440000.0

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "pid": 3, "tid": 0, "args": {"name": "python"}},
            {"ph": "s", "id": 9, "pid": 3, "tid": 3, "ts": self.START, "cat": "ac2g", "name": "a"},
        ]

    def range(self, name: str, begin: float, end: float, thread: int = 3) -> None:
        self._add("user_annotation", name, begin, end, thread, {"External id": 1})
        self._add("gpu_user_annotation", name, begin, end, 7, {"External id": 1})

    def launch(
        self, correlation: int, begin: float, name: str = "cudaLaunchKernel", thread: int = 3
    ) -> None:
        kind = "cuda_driver" if name.startswith("cu") and name[2].isupper() else "cuda_runtime"
        self._add(kind, name, begin, begin + 1, thread, {"cbid": 1, "correlation": correlation})

    def kernel(
        self, name: str, correlation: int, begin: float, end: float, stream: int = 7
    ) -> None:
        args = {
            "device": 0,
            "stream": stream,
            "correlation": correlation,
            "grid": [1, 1, 1],
            "block": [32, 1, 1],
        }
        self._add("kernel", name, begin, end, stream, args)

    def replay(self, step: int, correlation: int, begin: float, on_device: float) -> None:
        """A step that is one graph of four kernels of two microseconds, each at once after the one
        before it."""
        self.range(f"glmc step {step}", begin, begin + 9)
        self.range(f"glmc graph {KEY}", begin + 2, begin + 8)
        self.launch(correlation, begin + 3, "cudaGraphLaunch")
        for at, name in enumerate(("fill", "norm", "gemm", "reduce")):
            self.kernel(name, correlation, on_device + 2 * at, on_device + 2 * at + 2)

    def read(self) -> Recorded:
        return read_recorded(self.events)

    def _add(
        self, kind: str, name: str, begin: float, end: float, thread: int, args: dict[str, Any]
    ) -> None:
        self.events.append(
            {
                **{"ph": "X", "cat": kind, "name": name, "pid": 3, "tid": thread},
                **{"ts": self.START + begin, "dur": end - begin, "args": args},
            }
        )


def shown(calls: tuple[CallTime, ...]) -> list[tuple[object, object, float, float]]:
    return [
        (call.step, call.place, call.begin - Trace.START, call.end - Trace.START) for call in calls
    ]


def test_a_graph_that_is_replayed_twice_has_its_calls_in_both_steps() -> None:
    trace = Trace()
    trace.replay(0, 50, 0.0, 20.0)
    trace.replay(1, 60, 10.0, 40.0)  # launched while the first one runs
    found = attributed(trace.read(), NODES)
    assert found.attribution == "exact"
    assert shown(found.calls) == [
        (0, "step inputs", 20, 22),
        (0, 0, 22, 24),
        (0, 1, 24, 28),
        (1, "step inputs", 40, 42),
        (1, 0, 42, 44),
        (1, 1, 44, 48),
    ]
    gemm = found.calls[2]
    assert gemm.kernels == (("gemm", 2.0), ("reduce", 2.0))
    assert (gemm.correlation, gemm.stream) == (50, 7)
    assert gemm.launch == (Trace.START + 3, Trace.START + 4)


def test_a_graph_with_another_number_of_kernels_is_of_no_call() -> None:
    trace = Trace()
    trace.replay(0, 50, 0.0, 20.0)
    trace.replay(1, 60, 10.0, 40.0)
    trace.kernel("surplus", 60, 48.0, 49.0)
    found = attributed(trace.read(), NODES)
    assert found.attribution == f"by order: 5 kernels recorded, 4 expected, of {KEY} (1 launches)"
    assert [call.place for call in found.calls] == ["step inputs", 0, 1, *[None] * 5]
    assert [call.step for call in found.calls] == [0] * 3 + [1] * 5


@pytest.mark.parametrize(
    ("graphs", "reason"),
    [
        ({}, "nobody has asked for its nodes"),
        ({KEY: "a graph of one rank of several"}, "a graph of one rank of several"),
    ],
)
def test_a_graph_whose_nodes_are_not_known_is_of_no_call(
    graphs: dict[str, Nodes], reason: str
) -> None:
    trace = Trace()
    trace.replay(0, 50, 0.0, 20.0)
    found = attributed(trace.read(), graphs)
    assert found.attribution == f"by order: {reason}, of {KEY} (1 launches)"
    assert {call.place for call in found.calls} == {None}


def test_what_a_thunk_launches_is_of_its_call() -> None:
    """A prefill that is called one by one: two kernels for one call, a driver's launch, a copy
    outside of calls, and a kernel of another thread at the same time."""
    trace = Trace()
    trace.range("glmc step 0", 0, 40)
    trace.launch(1, 1, "cudaMemcpyAsync")
    trace.range("glmc call 0", 5, 12)
    trace.launch(2, 6)
    trace.launch(3, 8)
    trace.range("glmc call 1", 13, 18)
    trace.launch(4, 14, "cuLaunchKernelEx")
    trace.launch(5, 15, thread=8)
    for correlation, name in ((1, "copy"), (2, "gemm"), (3, "reduce"), (4, "norm"), (5, "theirs")):
        trace.kernel(
            name, correlation, 20 + correlation, 21 + correlation, 9 if name[0] == "t" else 7
        )
    found = attributed(trace.read(), {})
    assert found.attribution == "exact"
    assert shown(found.calls) == [
        (0, None, 21, 22),
        (0, 0, 22, 24),
        (0, 1, 24, 25),
        (None, None, 25, 26),
    ]


def test_time_that_two_kernels_of_a_stream_share_is_the_first_ones() -> None:
    trace = Trace()
    trace.range("glmc step 0", 0, 20)
    for place, (begin, end) in enumerate(((20, 30), (26, 34), (27, 29), (40, 41))):
        trace.range(f"glmc call {place}", 2 * place, 2 * place + 1)
        trace.launch(place, 2 * place + 0.5)
        trace.kernel("norm", place, begin, end)
    found = attributed(trace.read(), {})
    assert shown(found.calls) == [(0, 0, 20, 30), (0, 1, 30, 34), (0, 2, 34, 34), (0, 3, 40, 41)]
    assert [call.overlap for call in found.calls] == [0, 4, 7, 0]
    assert [call.kernels[0][1] for call in found.calls] == [10, 8, 2, 1]


def test_a_kernel_whose_launch_was_not_recorded_is_of_no_step() -> None:
    trace = Trace()
    trace.kernel("norm", 77, 0, 1)
    (call,) = attributed(trace.read(), {}).calls
    assert (call.step, call.place, call.launch) == (None, None, None)


def test_nothing_recorded_is_said() -> None:
    trace = Trace()
    trace.range("glmc step 0", 0, 9)
    assert attributed(trace.read(), NODES).attribution == NOTHING_RECORDED


def test_a_recording_begins_at_zero_and_has_the_steps_that_ended() -> None:
    trace = Trace()
    trace.replay(0, 50, 4.0, 20.0)
    trace.replay(1, 60, 14.0, 40.0)
    steps = {0: StepTime(0, "decode", SIZES, True, False, 0.0, 0.0)}
    recording = recording_of(trace.read(), NODES, steps)
    (step,) = recording.steps
    assert (step.number, step.begin, step.end, step.sizes) == (0, 0.0, 9.0, SIZES)
    assert [(call.step, call.place) for call in recording.calls] == [
        *[(0, "step inputs"), (0, 0), (0, 1)],
        *[(None, None)] * 3,
    ]
    assert recording.calls[0].begin == 16.0
    assert recording.calls[0].launch == (3.0, 4.0)
