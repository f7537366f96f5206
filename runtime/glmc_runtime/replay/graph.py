"""Device graphs under one small interface.

``capture`` takes the thunks of one segment and gives the thunks that replay it. Without a device
graph the bound list is the graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

import torch

from glmc_runtime.kernels import Thunk

Looked = TypeVar("Looked")
_THIS_THREAD = {"capture_error_mode": "thread_local"}
_NO_MODE: Mapping[str, Any] = {}


class GraphCaptureError(RuntimeError):
    """The thunks ran, to their end on the device, but could not be captured."""


class GraphCapture(Protocol):
    """``on_device`` says whether a capture freezes the segment (addresses, shapes, scalars)."""

    on_device: bool

    def capture(self, thunks: tuple[Thunk, ...]) -> tuple[Thunk, ...]:
        """Run the thunks once and return those that repeat them.

        Raises :class:`GraphCaptureError`, and whatever a thunk raises when it runs.
        """
        ...

    def wait(self) -> None:
        """Return when everything that was called has run."""
        ...


class CpuList:
    """No capture: the bound list is replayed as it is, call by call from the CPU.

    Also for an emulated artifact on a CUDA device: the emulator allocates and reads results back,
    which no device graph can hold.
    """

    on_device = False

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def capture(self, thunks: tuple[Thunk, ...]) -> tuple[Thunk, ...]:
        for thunk in thunks:
            thunk()
        return thunks

    def wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class CudaGraphs:
    """``torch.cuda.CUDAGraph`` with one memory pool for all graphs, so capture large ones first.

    Kunlun's torch offers the same class under the same name. ``one_at_a_time``: a graph is let go
    of before the next is captured, each has a pool of its own (torch gives up a pool whose last
    graph is gone), and other threads of the program may go on using the device meanwhile.

    Where a capture fails, torch before 2.12 leaves its allocator and its random numbers in it.
    """

    on_device = True

    def __init__(self, one_at_a_time: bool = False) -> None:
        self._mode: dict[str, Any] = (
            dict(_THIS_THREAD) if one_at_a_time else {"pool": torch.cuda.graph_pool_handle()}
        )
        self._stream: torch.cuda.Stream = torch.cuda.Stream()

    def capture(self, thunks: tuple[Thunk, ...]) -> tuple[Thunk, ...]:
        """Not through ``torch.cuda.graph``: its collection of garbage before each capture would
        take minutes over the segments of a deep model."""
        caller = torch.cuda.current_stream()
        self._stream.wait_stream(caller)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(self._stream):
                for thunk in thunks:  # lazy set-up of libraries must not fall into the capture
                    thunk()
                torch.cuda.synchronize()
                try:
                    self._record(graph, thunks)
                except Exception as error:
                    raise GraphCaptureError(str(error)) from error
        finally:
            caller.wait_stream(self._stream)
        return (graph.replay,)

    def _record(
        self,
        graph: torch.cuda.CUDAGraph,
        thunks: tuple[Thunk, ...],
        mode: Mapping[str, Any] = _NO_MODE,
    ) -> None:
        graph.capture_begin(**{**self._mode, **mode})
        try:
            for thunk in thunks:
                thunk()
        except BaseException:
            # The capture is void by now, and saying so must not hide the kernel's own error.
            with contextlib.suppress(RuntimeError):
                graph.capture_end()
            raise
        graph.capture_end()

    def captured_again(
        self, thunks: tuple[Thunk, ...], look: Callable[[int], Looked]
    ) -> list[Looked]:
        """What ``look``, called with the stream that is captured, gives after each of the thunks,
        in a capture that is thrown away. Nothing runs on the device.

        Raises what a thunk raises; other threads of the program may go on using the device.
        """
        found: list[Looked] = []

        def looked_at(thunk: Thunk) -> None:
            thunk()
            found.append(look(self._stream.cuda_stream))

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            self._record(graph, tuple(partial(looked_at, thunk) for thunk in thunks), _THIS_THREAD)
        graph.reset()
        return found

    def wait(self) -> None:
        torch.cuda.synchronize()


def graphs_for(device: torch.device, emulated: bool) -> GraphCapture:
    """The capture of a device."""
    return CudaGraphs() if device.type == "cuda" and not emulated else CpuList(device)
