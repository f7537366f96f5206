"""When calls become a device graph, what drops it, and what stands against it; no GPU is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from glmc.dynamo.compile.normal_form import Placeholder
from glmc.dynamo.run.device_graph import (
    CALLS_BEFORE_CAPTURE,
    CachedDeviceGraph,
    capture_blockers,
    capture_for,
    in_host_memory,
)
from glmc.errors import UsageError
from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk
from glmc_runtime.replay.device_order import StreamOrder
from glmc_runtime.replay.graph import GraphCaptureError
from tests.dynamo.compiled import decode, layer_of, prompt, static_cache, watched


class FakeCapture:
    """Counts captures and replays; ``fails``: a capture that breaks after its first run."""

    on_device = True

    def __init__(self, fails: bool = False) -> None:
        self.captures = self.replays = 0
        self.fails = fails

    def capture(self, thunks: tuple[Thunk, ...]) -> tuple[Thunk, ...]:
        for thunk in thunks:
            thunk()
        if self.fails:
            raise GraphCaptureError("operation not permitted when stream is capturing")
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            for thunk in thunks:
                thunk()

        return (replay,)

    def wait(self) -> None:
        pass


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> FakeCapture:
    """Graphs on the CPU, by a fake."""
    made = FakeCapture()
    monkeypatch.setattr("glmc.dynamo.backend.capture_for", lambda *_: lambda: made)
    return made


def run(graph: CachedDeviceGraph, key: str, thunk: Thunk) -> None:
    for each in graph.thunks(key, (thunk,)):
        each()


def counted() -> tuple[list[int], Callable[[], None]]:
    count: list[int] = []
    return count, lambda: count.append(1)


def test_the_third_call_in_a_row_is_captured_and_each_runs_once() -> None:
    capture = FakeCapture()
    graph = CachedDeviceGraph(lambda: capture)
    count, thunk = counted()
    for call in range(1, CALLS_BEFORE_CAPTURE + 4):
        run(graph, "here", thunk)
        assert len(count) == call
        assert graph.is_cached is (call >= CALLS_BEFORE_CAPTURE)
    assert (graph.captures, graph.replays) == (capture.captures, capture.replays) == (1, 3)


def test_another_key_drops_the_graph() -> None:
    graph = CachedDeviceGraph(FakeCapture)
    count, thunk = counted()
    for key in ("a", "a", "b", "a", "a", "a", "b", "b", "b"):
        run(graph, key, thunk)
        assert graph.is_cached is (len(count) in (6, 9))
    assert graph.captures == 2


def test_a_capture_that_fails_is_said_and_not_tried_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    graph = CachedDeviceGraph(lambda: FakeCapture(fails=True))
    count, thunk = counted()
    for _ in range(CALLS_BEFORE_CAPTURE + 2):
        run(graph, "here", thunk)
    assert len(count) == CALLS_BEFORE_CAPTURE + 2
    assert graph.failure is not None
    assert not graph.is_cached
    assert capsys.readouterr().err.count("no device graph, so calls go one by one: operation") == 1


def test_a_capture_that_fails_is_an_error_where_it_is_insisted_on() -> None:
    graph = CachedDeviceGraph(lambda: FakeCapture(fails=True), required=True)
    for call in range(1, CALLS_BEFORE_CAPTURE + 3):  # every call says so, not the first alone
        refused = pytest.raises(PlanError, match=r"could not be captured.*stream is capturing")
        with refused if call >= CALLS_BEFORE_CAPTURE else nullcontext():
            run(graph, "here", lambda: None)


def test_a_kernel_that_fails_is_no_matter_of_the_capture() -> None:
    def broken() -> None:
        raise RuntimeError("the kernel's own")

    graph = CachedDeviceGraph(FakeCapture)
    graph.thunks("here", (broken,))
    graph.thunks("here", (broken,))
    with pytest.raises(RuntimeError, match="the kernel's own"):
        graph.thunks("here", (broken,))
    assert graph.failure is None


def test_an_error_that_comes_when_the_device_is_waited_for_is_no_matter_of_the_capture() -> None:
    class Late(FakeCapture):
        def capture(self, thunks: tuple[Thunk, ...]) -> tuple[Thunk, ...]:
            super().capture(thunks)
            raise RuntimeError("an illegal memory access")

    graph = CachedDeviceGraph(Late)
    with pytest.raises(RuntimeError, match="illegal"):
        for _ in range(CALLS_BEFORE_CAPTURE):
            run(graph, "here", lambda: None)
    assert graph.failure is None


@pytest.mark.long
def test_a_static_cache_is_one_graph(capture: FakeCapture) -> None:
    model = layer_of()
    expected = decode(model, model.forward, 12, static_cache(model), prompt(2))
    with watched() as graphs:
        forward = torch.compile(model.forward, backend="kunlun", fullgraph=True)
        cache = static_cache(model)
        found = decode(model, forward, 12, cache, prompt(2))
        assert torch.equal(found.argmax(-1), expected.argmax(-1))
        assert (capture.captures, capture.replays) == (1, 12 - CALLS_BEFORE_CAPTURE)
        cache.reset()  # the same memory
        assert torch.equal(decode(model, forward, 12, cache, prompt(2)), found)
        assert (capture.captures, capture.replays) == (1, 24 - CALLS_BEFORE_CAPTURE)
        other = decode(model, forward, 12, static_cache(model), prompt(2))
    assert torch.equal(other, found)
    assert (capture.captures, capture.replays) == (2, 36 - 2 * CALLS_BEFORE_CAPTURE)
    assert len(graphs) == 1


@pytest.mark.long
def test_a_growing_cache_is_never_captured(capture: FakeCapture) -> None:
    import transformers

    model = layer_of("glm4")
    cache = transformers.DynamicCache(config=model.config)
    with watched():
        forward = torch.compile(model.forward, backend="kunlun", fullgraph=True)
        decode(model, forward, 8, cache, prompt(1))
    assert capture.captures == 0


def test_a_changed_weight_drops_the_graph(capture: FakeCapture) -> None:
    linear = torch.nn.Linear(4, 4).requires_grad_(False)
    x = torch.ones(2, 4)
    with watched() as graphs:
        forward = torch.compile(linear.forward, backend="kunlun")
        for _ in range(CALLS_BEFORE_CAPTURE + 1):
            forward(x)
        assert graphs[0].replay.graph.is_cached
        linear.weight.zero_()
        torch.testing.assert_close(forward(x), linear.bias.expand(2, 4))
    assert not graphs[0].replay.graph.is_cached


def test_outputs_of_a_graph_are_not_overwritten(capture: FakeCapture) -> None:
    with watched():
        double = torch.compile(lambda x: x * 2, backend="kunlun")
        found = [double(torch.full((3,), float(step))) for step in range(6)]
    assert capture.replays == 6 - CALLS_BEFORE_CAPTURE
    assert [item[0].item() for item in found] == [0, 2, 4, 6, 8, 10]


CUDA = torch.device("cuda", 0)


def against(function: Any, *inputs: Tensor) -> list[str]:
    """What stands against a device graph of ``function``."""
    seen: list[list[str]] = []

    def keep(program: Any, hosts: Any) -> list[str]:
        seen.append(list(capture_blockers(program, hosts)))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch, watched():
        patch.setattr("glmc.dynamo.backend.capture_blockers", keep)
        torch.compile(function, backend="kunlun", fullgraph=True)(*inputs)
    return seen[0]


def test_what_the_host_reads_is_an_obstacle() -> None:
    x, mask = torch.ones(4), torch.tensor([True, False, True, False])

    def put(x: Tensor, mask: Tensor) -> Tensor:
        return torch.ops.aten.index_put(x, [mask], torch.zeros(()))

    assert against(lambda x, mask: torch.where(mask, x, 0), x, mask) == []
    assert against(lambda x: x[torch.tensor([1, 2])], x) == []
    assert "indexed by a mask" in against(put, x, mask)[0]
    assert "random" in against(lambda x: torch.bernoulli(x), x)[0]


def test_a_value_in_host_memory_is_an_obstacle() -> None:
    node = torch.fx.Graph().placeholder("any")
    kinds = {"read": "input", "written": "input", "there": "input", "w": "weight", "n": "size"}
    items = [Placeholder(name, kind, node) for name, kind in kinds.items()]
    values = [torch.ones(()), torch.ones(2), torch.ones(2, device="meta"), torch.ones(2), 3]
    device = torch.device("meta")  # any other than the host's
    assert list(in_host_memory(items, values, {"written", "there"}, device)) == ["written", "w"]
    assert capture_for(CUDA, None, ["'x' is in host memory"], False) is None
    with pytest.raises(UsageError, match="'x' is in host memory"):
        capture_for(CUDA, True, ["'x' is in host memory"], False)


def test_where_graphs_are_made() -> None:
    assert capture_for(torch.device("cpu"), None, [], False) is None
    assert capture_for(CUDA, False, [], False) is None
    assert capture_for(CUDA, None, [], True) is None
    for wanted in (None, True):
        assert capture_for(CUDA, wanted, [], False) is not None
    with pytest.raises(UsageError, match="emulated"):
        capture_for(CUDA, True, [], True)


def test_a_graph_of_the_caller_keeps_what_its_calls_read(
    capture: FakeCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Capturing(StreamOrder):
        @contextmanager
        def enter(self) -> Iterator[bool]:
            yield True

    with watched() as graphs:
        double = torch.compile(lambda x: (x * 2).cumsum(0) + 1, backend="kunlun", dynamic=True)
        double(torch.ones(3))
        replay = graphs[0].replay
        assert replay._pinned == []
        monkeypatch.setattr(replay, "_stream_order", Capturing(torch.device("cpu")))
        for _ in range(2 * CALLS_BEFORE_CAPTURE):
            double(torch.ones(3))
        (pinned,) = replay._pinned
        assert (capture.captures, capture.replays) == (0, 0)  # calls go one by one into his graph
        double(torch.ones(9000))  # another arena
        assert len(replay._pinned) == 2 and replay._pinned[0] is pinned


def test_weights_are_not_put_together_inside_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layer_of("glm4")
    with watched():
        forward = torch.compile(model.forward, backend="kunlun")
        monkeypatch.setattr("glmc.dynamo.run.weights.inside_capture", lambda: True)
        with torch.no_grad(), pytest.raises(PlanError, match="while a device graph is captured"):
            forward(prompt(1))


def test_a_result_is_returned_where_the_program_puts_it() -> None:
    with watched():
        move = torch.compile(lambda x: ((x + 1).to("meta"), x * 2), backend="kunlun")
        moved, doubled = move(torch.ones(3))
    assert (moved.device.type, moved.shape, doubled.device.type) == ("meta", (3,), "cpu")
    assert torch.equal(doubled, torch.full((3,), 2.0))
