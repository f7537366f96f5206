"""What a device graph is made of: the nodes that each thunk of a segment captures.

A replayed graph is one launch, and a profiler names its kernels by their functions alone. So the
thunks are captured once more into a graph that is thrown away, and after each of them the driver is
asked which nodes are new. It is libcuda that is asked: its functions keep their signatures.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Union

from glmc_runtime.replay.timeline.timer import Place, Recapture

KERNEL, MEMCPY, MEMSET = "kernel", "memcpy", "memset"
_KINDS = {0: KERNEL, 1: MEMCPY, 2: MEMSET}
_HOLD_OTHERS = {4: "a child graph", 13: "a conditional node"}
_CAPTURING = 1
_LIBRARY = "libcuda.so.1"


@dataclass(frozen=True)
class GraphNode:
    """A node of a device graph, captured by the thunk for ``place``. ``kind`` is "" for what leaves
    no record, such as an event. ``name`` is the mangled name of a kernel's function, and ``after``
    has the numbers of the nodes that it waits for; None where the driver doesn't say."""

    place: Place
    kind: str
    name: str | None = None
    grid: tuple[int, ...] | None = None
    block: tuple[int, ...] | None = None
    after: tuple[int, ...] | None = None


Nodes = Union[tuple[GraphNode, ...], str]
"""The nodes of a graph, in an order in which they can run; or why they are not known."""


class DriverError(Exception):
    """The driver doesn't say what a graph is made of."""


def graph_nodes(recapture: Recapture, library: Any = None) -> Nodes:
    """The nodes of a segment's device graph. ``library`` stands for libcuda."""
    try:
        graph = _CapturedGraph(ctypes.CDLL(_LIBRARY) if library is None else library)
        found = recapture(graph.new_nodes)
    except (DriverError, OSError, RuntimeError) as error:
        return f"the nodes of a device graph are not known: {error}"
    return tuple(
        GraphNode(place, each.kind, each.name, each.grid, each.block, each.after)
        for place, nodes in found
        for each in nodes
    )


@dataclass(frozen=True)
class _Node:
    kind: str
    name: str | None
    grid: tuple[int, ...] | None
    block: tuple[int, ...] | None
    after: tuple[int, ...] | None


class _KernelParameters(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2. ``sizes`` are grid, block and bytes of shared memory."""

    _fields_ = (
        ("function", ctypes.c_void_p),
        ("sizes", ctypes.c_uint * 7),
        ("parameters", ctypes.c_void_p),
        ("extra", ctypes.c_void_p),
        ("kernel", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
    )


class _CapturedGraph:
    """The graph into which a stream is captured, as it grows."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._numbers: dict[int, int] = {}

    def new_nodes(self, stream: int) -> list[_Node]:
        """The nodes that came since the last call, each after those that it waits for."""
        new = [each for each in self._handles(self._graph(stream)) if each not in self._numbers]
        before = {each: self._before(each) for each in new}
        found = []
        while new:
            ready = (n for n in new if all(b in self._numbers for b in before[n] or ()))
            handle = next(ready, None)
            if handle is None:
                raise DriverError("a node waits for one that is not there")
            new.remove(handle)
            self._numbers[handle] = len(self._numbers)
            found.append(self._node(handle, before[handle]))
        return found

    def _graph(self, stream: int) -> ctypes.c_void_p:
        status, number, graph = ctypes.c_int(), ctypes.c_ulonglong(), ctypes.c_void_p()
        known = (ctypes.byref(status), ctypes.byref(number), ctypes.byref(graph))
        # The older one may refuse what has programmatic launches.
        name, unasked = "cuStreamGetCaptureInfo_v3", [None] * 3
        if not self._has(name):
            name, unasked = "cuStreamGetCaptureInfo_v2", [None] * 2
        self._ask(name, ctypes.c_void_p(stream), *known, *unasked)
        if status.value != _CAPTURING:
            raise DriverError("the stream is not captured")
        return graph

    def _handles(self, graph: ctypes.c_void_p) -> list[int]:
        count = ctypes.c_size_t()
        self._ask("cuGraphGetNodes", graph, None, ctypes.byref(count))
        handles = (ctypes.c_void_p * count.value)()
        if count.value:
            self._ask("cuGraphGetNodes", graph, handles, ctypes.byref(count))
        return [handle for handle in handles if handle is not None]

    def _before(self, handle: int) -> tuple[int, ...] | None:
        """The handles of what a node waits for; None from a driver that can't give all edges."""
        if not self._has("cuGraphNodeGetDependencies_v2"):
            return None
        node, count = ctypes.c_void_p(handle), ctypes.c_size_t()
        name = "cuGraphNodeGetDependencies_v2"
        self._ask(name, node, None, None, ctypes.byref(count))
        if not count.value:
            return ()
        handles = (ctypes.c_void_p * count.value)()
        edges = (ctypes.c_ubyte * 8 * count.value)()
        self._ask(name, node, handles, edges, ctypes.byref(count))
        return tuple(each for each in handles if each is not None)

    def _node(self, handle: int, before: tuple[int, ...] | None) -> _Node:
        after = None if before is None else tuple(sorted(self._numbers[each] for each in before))
        node, kind = ctypes.c_void_p(handle), ctypes.c_int()
        self._ask("cuGraphNodeGetType", node, ctypes.byref(kind))
        if kind.value in _HOLD_OTHERS:
            raise DriverError(f"it has {_HOLD_OTHERS[kind.value]}")
        name = _KINDS.get(kind.value, "")
        if name != KERNEL:
            return _Node(name, None, None, None, after)
        found = _KernelParameters()
        self._ask("cuGraphKernelNodeGetParams_v2", node, ctypes.byref(found))
        sizes = tuple(found.sizes)
        return _Node(KERNEL, self._function(found), sizes[:3], sizes[3:6], after)

    def _function(self, found: _KernelParameters) -> str | None:
        name = ctypes.c_char_p()
        for function, handle in (
            ("cuFuncGetName", found.function),
            ("cuKernelGetName", found.kernel),
        ):
            if handle and self._has(function):
                self._ask(function, ctypes.byref(name), ctypes.c_void_p(handle))
                return None if name.value is None else name.value.decode(errors="replace")
        return None

    def _has(self, function: str) -> bool:
        return hasattr(self._library, function)

    def _ask(self, function: str, *arguments: Any) -> None:
        if not self._has(function):
            raise DriverError(f"libcuda has no {function}")
        result = getattr(self._library, function)(*arguments)
        if result != 0:
            raise DriverError(f"{function} returned {result}")
