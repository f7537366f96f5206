"""The device that a name means, and the stream order of calls that share memory on it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

import torch


def indexed(device: torch.device) -> torch.device:
    """``device`` with its number: "cuda" alone is another card after ``set_device``."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


class StreamOrder:
    """Serialises on ``device`` the calls that share an arena, whatever streams they are made on:
    each waits for the one before it. On the host a lock or a single thread does so."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_device = device.type == "cuda"
        self._last: torch.cuda.Stream | None = None
        self._handle = 0

    def enter(self) -> AbstractContextManager[bool]:
        """One call, in which ``device`` is current: kernels, streams and tuned configurations are
        of that. Yields whether the caller captures a graph, whose order is his own."""
        return _Call(self, self._device) if self._on_device else _ON_HOST

    def next_on(self, handle: int) -> None:
        """The next call is on the current stream, whose handle this is."""
        if self._last is not None and self._handle == handle:
            return
        stream = torch.cuda.current_stream()
        if self._last is not None:
            stream.wait_stream(self._last)
        self._last, self._handle = stream, handle


_ON_HOST = nullcontext(False)


class _Call(AbstractContextManager[bool]):
    """Written out, as each step enters it; ``torch.cuda.device`` is used only where another device
    is current."""

    def __init__(self, order: StreamOrder, device: torch.device) -> None:
        self._order, self._device = order, device
        self._other: AbstractContextManager[None] | None = None

    def __enter__(self) -> bool:
        index = self._device.index
        if torch.cuda.current_device() != index:
            self._other = torch.cuda.device(self._device)
            self._other.__enter__()
        try:
            captured: bool = torch.cuda.is_current_stream_capturing()
            if not captured:
                self._order.next_on(_stream_handle(index))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return captured

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._other is not None:
            self._other.__exit__(kind, error, traceback)


def _stream_handle(index: int) -> int:
    """The handle of the current stream, without an object for it where torch can say it."""
    raw: Callable[[int], int] | None = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return int(torch.cuda.current_stream(index).cuda_stream) if raw is None else raw(index)
