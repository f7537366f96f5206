"""The device that a name means, and the stream order of calls that share memory on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

    @contextmanager
    def enter(self) -> Iterator[bool]:
        """One call, in which ``device`` is current: kernels, streams and tuned configurations are
            of
        that. Yields whether the caller captures a graph, whose order is his own."""
        if not self._on_device:
            yield False
            return
        with torch.cuda.device(self._device):
            captured = torch.cuda.is_current_stream_capturing()
            if not captured:
                stream = torch.cuda.current_stream()
                if self._last is not None and self._last != stream:
                    stream.wait_stream(self._last)
                self._last = stream
            yield captured
