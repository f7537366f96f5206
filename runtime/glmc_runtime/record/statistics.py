"""Statistics of a tensor in bounded memory: parts are added one after the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glmc_runtime.record.blocks import blocks
from glmc_runtime.record.tensors import RecordedTensor, Statistics


class RunningStatistics:
    """Of all that was added, in float64. ``std`` divides by the number of elements, as numpy's does
    and so, presumably, that of torch_xray's summary."""

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0
        self._minimum, self._maximum = math.inf, -math.inf
        self._nan = self._inf = 0

    def add(self, tensor: Tensor) -> None:
        """Add a tensor of any dtype, shape and device."""
        for slices in blocks(tensor.shape):
            part = tensor[slices].detach()
            if part.is_complex():
                part = torch.view_as_real(part)
            self._add(part.to("cpu", torch.float64).flatten())

    def _add(self, part: Tensor) -> None:
        finite = part[torch.isfinite(part)]
        if len(finite) < len(part):
            nan = int(torch.isnan(part).sum())
            self._nan += nan
            self._inf += len(part) - len(finite) - nan
        if not len(finite):
            return
        count, mean = len(finite), float(finite.mean())
        squares = float(torch.square(finite - mean).sum())
        total, away = self._count + count, mean - self._mean
        # Chan, Golub and LeVeque: the parallel form of Welford's sums.
        self._squares += squares + away * away * self._count * count / total
        self._mean += away * count / total
        self._count = total
        self._minimum = min(self._minimum, float(finite.min()))
        self._maximum = max(self._maximum, float(finite.max()))

    def result(self) -> Statistics:
        """What there is so far."""
        if not self._count:
            return Statistics(math.nan, math.nan, math.nan, math.nan, self._nan, self._inf)
        std = math.sqrt(self._squares / self._count)
        return Statistics(self._minimum, self._maximum, self._mean, std, self._nan, self._inf)


def statistics_of(tensor: Tensor) -> Statistics:
    """Statistics of a whole tensor."""
    running = RunningStatistics()
    running.add(tensor)
    return running.result()


def recorded_statistics(tensor: RecordedTensor) -> Statistics | None:
    """What a record says of a tensor, or what its stored elements say; None where it has neither.

    A file of another tool says nothing: its elements are read now.
    """
    if tensor.statistics is not None or tensor.load is None:
        return tensor.statistics
    return statistics_of(tensor.load())
