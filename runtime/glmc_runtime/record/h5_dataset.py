"""A tensor as a dataset of HDF5: what is stored of it, and what its attributes say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from glmc_runtime.record.blocks import blocks
from glmc_runtime.record.keep import STATISTICS, Keep, rows_of
from glmc_runtime.record.sink import Part
from glmc_runtime.record.statistics import RunningStatistics
from glmc_runtime.record.summary_csv import SummaryLine
from glmc_runtime.record.tensors import Statistics

# HDF5 has these; of others the values are stored in float32, which holds all of them exactly.
_STORED = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.int16: "int16",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.bool: "bool",
    torch.complex64: "complex64",
    torch.complex128: "complex128",
}
_PLAIN = (str, int, float, bool)


def dtype_name(dtype: torch.dtype) -> str:
    """torch's name of a dtype, such as ``bfloat16``."""
    return str(dtype).removeprefix("torch.")


class H5Dataset:
    """Written part by part; :meth:`finish` writes the attributes.

    ``shape`` is that of the whole tensor, ``lengths`` the tokens of the step's sequences.
    """

    def __init__(
        self,
        h5py: Any,
        group: Any,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype,
        keep: Keep,
        lengths: Sequence[int],
    ) -> None:
        self.shape, self.dtype = tuple(shape), dtype
        self.facts: dict[str, Any] = {}
        self._running = RunningStatistics()
        self._missing = prod(self.shape)
        self._rows = keep.chosen(shape, lengths)
        self._data: Any = None
        self._empty = keep.what == STATISTICS
        stored = _STORED.get(dtype, "float32")
        if self._empty:
            self._data = group.create_dataset(name, data=h5py.Empty(stored))
        else:
            kept = self.shape if self._rows is None else (len(self._rows), self.shape[-1])
            self._data = group.create_dataset(name, kept, stored, track_times=False)

    def add(self, tensor: Tensor, facts: Mapping[str, Any], part: Part | None) -> None:
        """Write a tensor, or the part of one, and count its elements."""
        tensor = tensor.detach()
        self.facts.update(facts)
        self._missing -= tensor.numel()
        origin = [0] * tensor.dim()
        if part is not None:
            origin[part.axis] = part.begin
        for slices in blocks(tensor.shape):
            piece = tensor[slices].cpu()
            self._running.add(piece)
            if self._empty or self._rows is not None:
                continue
            if piece.numel():
                there = tuple(
                    slice(each.start + begin, each.stop + begin)
                    for each, begin in zip(slices, origin, strict=True)
                )
                self._data[there] = _array(piece)
        if self._rows is not None and not self._empty:
            self._add_rows(tensor, self._rows, part)

    def _add_rows(self, tensor: Tensor, rows: Sequence[int], part: Part | None) -> None:
        """Write those of the chosen rows that the part has."""
        chosen = torch.tensor(rows)
        columns = slice(0, tensor.shape[-1])
        here = torch.arange(len(rows))
        if part is not None and part.axis == tensor.dim() - 1:
            columns = slice(part.begin, part.begin + tensor.shape[-1])
        elif part is not None:
            # Each row of the whole by its number in this part, -1 where it is of another one.
            places = torch.full((rows_of(self.shape),), -1)
            mine = places.view(self.shape[:-1]).narrow(
                part.axis, part.begin, tensor.shape[part.axis]
            )
            mine.copy_(torch.arange(rows_of(tensor.shape)).view(tensor.shape[:-1]))
            here = (places[chosen] >= 0).nonzero().flatten()
            chosen = places[chosen[here]]
        if len(here):
            index = torch.unravel_index(chosen.to(tensor.device), tensor.shape[:-1])
            self._data[here.tolist(), columns] = _array(tensor[index].cpu())

    def finish(self) -> None:
        """Write the attributes, once: what the tensor is, its statistics, and the facts."""
        if self._data is None:
            return
        line = self.line
        attributes = {
            "dtype": line.dtype,
            "shape": list(line.shape),
            "statistics": [float(each) for each in vars(line.statistics).values()],
            **({} if self._rows is None or self._empty else {"rows": list(self._rows)}),
            **{name: plain(value) for name, value in self.facts.items() if value is not None},
        }
        for name, value in attributes.items():
            self._data.attrs[name] = value
        self._data = None

    @property
    def complete(self) -> bool:
        """Whether all parts were written."""
        return self._missing == 0

    @property
    def line(self) -> SummaryLine:
        """What the summary says of what was written so far."""
        found, node = self._running.result(), str(self.facts.get("node", ""))
        return SummaryLine(dtype_name(self.dtype), self.shape, found, node)


def line_of(attributes: Any) -> SummaryLine:
    """What the attributes of a written dataset say."""
    found = statistics_from(attributes["statistics"])
    shape = tuple(map(int, attributes["shape"]))
    return SummaryLine(attributes["dtype"], shape, found, str(attributes.get("node", "")))


def statistics_from(numbers: Iterable[float]) -> Statistics:
    """Statistics from the numbers of an attribute, in the order of the fields."""
    minimum, maximum, mean, std, nan, inf = map(float, numbers)
    return Statistics(minimum, maximum, mean, std, int(nan), int(inf))


def plain(value: Any) -> Any:
    """A value as an attribute; as JSON where HDF5 has no plain type for it."""
    return value if isinstance(value, _PLAIN) else json.dumps(value)


def _array(tensor: Tensor) -> Any:
    if tensor.dtype not in _STORED:
        tensor = tensor.to(torch.float32)
    return tensor.contiguous().numpy()
