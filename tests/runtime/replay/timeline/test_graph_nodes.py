"""Nodes of a capture, asked of a stand-in of libcuda that has its calling convention."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from glmc_runtime.replay.timeline.graph_nodes import GraphNode, graph_nodes
from glmc_runtime.replay.timeline.timer import Place

P, INT, SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
Looked = TypeVar("Looked")
STREAM, GRAPH = 0x5717, 0x64A9
LOSSY = 712


class FakeDriver:
    """Functions of C over a list of nodes: (kind, function's name, what it waits for). Handles are
    0x1000 + number. With ``old`` it is a driver before CUDA 12.3."""

    def __init__(self, old: bool = False) -> None:
        self.nodes: list[tuple[int, str, tuple[int, ...]]] = []
        self.status, self.reverse = 1, False
        self._kept: list[Any] = []
        newer = (
            ()
            if old
            else (
                ("cuStreamGetCaptureInfo_v3", self._info, (P, P, P, P, P, P, P)),
                ("cuGraphNodeGetDependencies_v2", self._before, (P, P, P, P)),
                ("cuFuncGetName", self._name, (P, P)),
            )
        )
        for name, function, arguments in (
            ("cuStreamGetCaptureInfo_v2", self._info, (P, P, P, P, P, P)),
            ("cuGraphGetNodes", self._all, (P, P, P)),
            ("cuGraphNodeGetType", self._type, (P, P)),
            ("cuGraphKernelNodeGetParams_v2", self._parameters, (P, P)),
            *newer,
        ):
            setattr(self, name, ctypes.CFUNCTYPE(INT, *arguments)(function))

    def _info(self, stream: int, status: int, number: int, graph: int, *others: object) -> int:
        assert stream == STREAM and not any(others)
        INT.from_address(status).value = self.status
        P.from_address(graph).value = GRAPH
        return 0

    def _all(self, graph: int, handles: int | None, count: int) -> int:
        assert graph == GRAPH
        order = range(len(self.nodes))
        if handles is not None:
            for at, number in enumerate(reversed(order) if self.reverse else order):
                P.from_address(handles + 8 * at).value = 0x1000 + number
        SIZE.from_address(count).value = len(self.nodes)
        return 0

    def _type(self, node: int, kind: int) -> int:
        INT.from_address(kind).value = self.nodes[node - 0x1000][0]
        return 0

    def _before(self, node: int, handles: int | None, edges: int | None, count: int) -> int:
        before = self.nodes[node - 0x1000][2]
        if handles is not None:
            if edges is None:
                return LOSSY
            for at, number in enumerate(before):
                P.from_address(handles + 8 * at).value = 0x1000 + number
        SIZE.from_address(count).value = len(before)
        return 0

    def _parameters(self, node: int, found: int) -> int:
        P.from_address(found).value = node
        for at, size in enumerate((node - 0x1000 + 1, 2, 3, 128, 1, 1, 4096)):
            ctypes.c_uint.from_address(found + 8 + 4 * at).value = size
        return 0

    def _name(self, name: int, function: int) -> int:
        text = ctypes.create_string_buffer(self.nodes[function - 0x1000][1].encode())
        self._kept.append(text)
        P.from_address(name).value = ctypes.addressof(text)
        return 0


def recaptured(
    driver: FakeDriver, *thunks: tuple[Place, list[tuple[int, str, tuple[int, ...]]]]
) -> Any:
    """Each thunk captures some nodes."""

    def recapture(look: Callable[[int], Looked]) -> Sequence[tuple[Place, Looked]]:
        found = []
        for place, nodes in thunks:
            driver.nodes += nodes
            found.append((place, look(STREAM)))
        return found

    return recapture


THUNKS: tuple[tuple[Place, list[tuple[int, str, tuple[int, ...]]]], ...] = (
    ("step inputs", [(1, "", ())]),
    (0, []),
    (1, [(0, "gemm", (0,)), (0, "reduce", (1,))]),
    (2, [(7, "", (2,)), (2, "", (3,)), (0, "norm", (4,))]),
)


@pytest.mark.parametrize("reverse", [False, True])
def test_each_node_is_of_the_thunk_that_captured_it(reverse: bool) -> None:
    """In whatever order the driver gives them, a node comes after those that it waits for."""
    driver = FakeDriver()
    driver.reverse = reverse
    found = graph_nodes(recaptured(driver, *THUNKS), driver)
    assert found == (
        GraphNode("step inputs", "memcpy", after=()),
        GraphNode(1, "kernel", "gemm", (2, 2, 3), (128, 1, 1), (0,)),
        GraphNode(1, "kernel", "reduce", (3, 2, 3), (128, 1, 1), (1,)),
        GraphNode(2, "", after=(2,)),
        GraphNode(2, "memset", after=(3,)),
        GraphNode(2, "kernel", "norm", (6, 2, 3), (128, 1, 1), (4,)),
    )


def test_an_older_driver_says_neither_names_nor_what_waits_for_what() -> None:
    driver = FakeDriver(old=True)
    found = graph_nodes(recaptured(driver, *THUNKS), driver)
    assert not isinstance(found, str)
    assert [node.place for node in found] == ["step inputs", 1, 1, 2, 2, 2]
    assert {node.name for node in found} == {node.after for node in found} == {None}


@pytest.mark.parametrize(
    ("kind", "said"), [(4, "it has a child graph"), (13, "it has a conditional node")]
)
def test_a_graph_within_a_graph_is_not_guessed(kind: int, said: str) -> None:
    driver = FakeDriver()
    found = graph_nodes(recaptured(driver, (0, [(kind, "", ())])), driver)
    assert found == f"the nodes of a device graph are not known: {said}"


def test_a_stream_that_is_not_captured_is_said() -> None:
    driver = FakeDriver()
    driver.status = 0
    found = graph_nodes(recaptured(driver, *THUNKS), driver)
    assert found == "the nodes of a device graph are not known: the stream is not captured"


def test_an_error_of_the_driver_is_said() -> None:
    driver = FakeDriver()
    failing: Any = lambda *arguments: 400  # noqa: E731
    driver.cuGraphGetNodes = failing  # type: ignore[attr-defined]
    found = graph_nodes(recaptured(driver, *THUNKS), driver)
    assert isinstance(found, str) and found.endswith("cuGraphGetNodes returned 400")


def test_a_capture_that_fails_and_a_missing_driver_are_said() -> None:
    def recapture(look: Callable[[int], Looked]) -> Sequence[tuple[Place, Looked]]:
        raise RuntimeError("operation not permitted when stream is capturing")

    found = graph_nodes(recapture, FakeDriver())
    assert isinstance(found, str) and found.endswith("when stream is capturing")
