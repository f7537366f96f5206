"""Device graphs behind one small interface.

``capture`` takes the thunks of one segment and gives the thunks that replay it. Without a device
graph the bound list is the graph.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from glmc_runtime.kernels import Thunk


class GraphCapture(Protocol):
    """``on_device`` says whether a capture freezes the segment (addresses, shapes, scalars)."""

    on_device: bool

    def capture(self, thunks: tuple[Thunk, ...]) -> tuple[Thunk, ...]:
        """Run the thunks once and return those that repeat them."""
        ...


class CpuList:
    """No capture: the bound list is replayed as it is."""

    on_device = False

    def capture(self, thunks: tuple[Thunk, ...]) -> tuple[Thunk, ...]:
        for thunk in thunks:
            thunk()
        return thunks


class CudaGraphs:
    """``torch.cuda.CUDAGraph`` with one memory pool for all graphs, so capture large ones first.

    Kunlun's torch offers the same class under the same name.
    """

    on_device = True

    def __init__(self) -> None:
        self._pool: Any = torch.cuda.graph_pool_handle()

    def capture(self, thunks: tuple[Thunk, ...]) -> tuple[Thunk, ...]:
        stream: torch.cuda.Stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # lazy set-up of libraries must not fall into the capture
            for thunk in thunks:
                thunk()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            for thunk in thunks:
                thunk()
        return (graph.replay,)


def graphs_for(device: torch.device) -> GraphCapture:
    """The capture of a device."""
    return CudaGraphs() if device.type == "cuda" else CpuList()
