"""Records as HDF5: ours, and those of torch_xray, whose layout ours have.

Of torch_xray's files the documentation shows groups by step and a dataset for each key (tensor_key
has the source). Which attributes its datasets have is not public: none is asked for, and all are
tolerated. What a file says of a tensor is then its stored shape and dtype. A file may come from
anywhere, so nothing outside of it is ever opened: links and datasets that lead elsewhere are
refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmc.check.align.readers.h5_limits import MOST_ELEMENTS, promised_too_much
from glmc_runtime.errors import RecordError
from glmc_runtime.format.dtypes import DTYPES
from glmc_runtime.format.tensor_key import parse_key
from glmc_runtime.record.h5_dataset import statistics_from
from glmc_runtime.record.h5_facts import TOOL, opened, plain_attributes, root_facts
from glmc_runtime.record.keep import rows_of
from glmc_runtime.record.packages import import_h5py
from glmc_runtime.record.tensors import RecordedTensor, Statistics

_OURS = frozenset(("dtype", "shape", "statistics", "rows"))
_TENSORS = "fiubc"
"""Kinds of numpy's dtypes that tensors have: a text or a reference is none."""


class XrayH5:
    """A :class:`~glmc_runtime.record.tensors.Record`. ``facts`` are the attributes of the root, and
    ``skipped``: names of datasets in another grammar."""

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._path = path
        skipped: list[str] = []
        with opened(path) as file:
            self.facts: Mapping[str, Any] = root_facts(plain_attributes(file.attrs), path)
            found = 0
            for step in _steps(file):
                for name in file[step]:
                    known = parse_key(name) is not None
                    found += known
                    skipped += [] if known else [name]
        if not found:
            raise RecordError(
                "the HDF5 file holds no tensors of modules",
                place=str(path),
                expected="a group for each step, with a dataset for each key",
                remedy="pass a file of glmc record or of torch_xray's PrecisionDebugger",
            )
        if skipped:
            self.facts = {**self.facts, "skipped": skipped}

    def tensors(self) -> Iterator[RecordedTensor]:
        """All tensors, by step and in the order in which they were written."""
        ours = self.facts.get("tool") == TOOL
        order = 0
        with opened(self._path) as file:
            for step in _steps(file):
                for name in file[step]:
                    key = parse_key(name)
                    if key is None:
                        continue
                    data = self._dataset(file, step, name)
                    if data.dtype.kind not in _TENSORS:
                        continue
                    yield RecordedTensor(
                        step=int(step),
                        order=order,
                        key=key,
                        load=self._loader(step, name) if data.shape is not None else None,
                        **self._described(data, name, ours),
                    )
                    order += 1

    def _described(self, data: Any, name: str, ours: bool) -> dict[str, Any]:
        """What the attributes and the dataset say."""
        attributes = plain_attributes(data.attrs)
        dtype = _dtype_of(attributes.get("dtype"), data)
        if not ours:
            return {"dtype": dtype, "shape": tuple(data.shape or ()), "statistics": None}
        shape, rows = _sizes(attributes.get("shape")), None
        if "rows" in attributes:
            rows = _sizes(attributes["rows"])
        if shape is None or (rows is None and "rows" in attributes):
            raise self._damaged(name, "its shape or its rows are no numbers")
        if not _agree(data, shape, rows):
            raise self._damaged(name, f"shape {list(shape)} and stored elements {data.shape}")
        return {
            "dtype": dtype,
            "shape": shape,
            "statistics": self._statistics(attributes.get("statistics"), name),
            "rows": rows,
            "facts": {
                fact: self._passes(value, name) if fact == "passes" else value
                for fact, value in attributes.items()
                if fact not in _OURS
            },
        }

    def _statistics(self, numbers: Any, name: str) -> Statistics | None:
        if numbers is None:
            return None
        try:
            return statistics_from(numbers)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._damaged(name, "its statistics are no six numbers") from error

    def _passes(self, text: Any, name: str) -> tuple[str, ...]:
        try:
            return tuple(map(str, json.loads(text)))
        except (TypeError, ValueError, RecursionError) as error:
            raise self._damaged(name, "its passes are no list") from error

    def _dataset(self, file: Any, step: str, name: str) -> Any:
        """A dataset of the file itself; raises :class:`RecordError` for what leads out of it."""
        h5py = import_h5py()
        group = file[step]
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise self._damaged(name, "a link to elsewhere")
        data = group[name]
        if not isinstance(data, h5py.Dataset):
            raise self._damaged(name, "no dataset")
        if data.shape is not None and (data.is_virtual or data.external):
            raise self._damaged(name, "elements that are in another file")
        return data

    def _loader(self, step: str, name: str) -> Any:
        def load() -> Tensor:
            with opened(self._path) as file:
                data = self._dataset(file, step, name)
                if found := promised_too_much(data):
                    raise RecordError(
                        "a tensor of the record is larger than what is stored of it can be",
                        place=f"{self.label}: {name}",
                        expected="elements that are in the file, or "
                        f"{MOST_ELEMENTS:,} packed ones at most",
                        found=found,
                        remedy="record it once more, without compression",
                    )
                array = data[()]
                array = array.astype(array.dtype.newbyteorder("="), copy=False)
                tensor = torch.from_numpy(array) if array.shape else torch.tensor(array.item())
                dtype: torch.dtype = getattr(torch, _dtype_of(data.attrs.get("dtype"), data))
                return tensor.to(dtype)

        return load

    def _damaged(self, name: str, found: str) -> RecordError:
        return RecordError(
            "a tensor of the record can't be read", place=f"{self.label}: {name}", found=found
        )


def _steps(file: Any) -> Sequence[str]:
    """The groups of a file that are steps, in their order."""
    h5py = import_h5py()
    names = [
        name
        for name in file
        if name.isascii()
        and name.isdigit()
        and isinstance(file.get(name, getlink=True), h5py.HardLink)
        and isinstance(file[name], h5py.Group)
    ]
    return sorted(names, key=int)


def _dtype_of(said: Any, data: Any) -> str:
    """torch's name of a dtype: what a file says, or what it stores."""
    if isinstance(said, str) and said.removeprefix("torch.") in DTYPES:
        return said.removeprefix("torch.")
    return str(data.dtype.newbyteorder("=").name)


def _sizes(value: Any) -> tuple[int, ...] | None:
    """Sizes from an attribute, None for anything else; the sizes of a scalar are an empty list."""
    if not isinstance(value, list) or not all(isinstance(each, int) for each in value):
        return None
    return tuple(value) if min(value, default=0) >= 0 else None


def _agree(data: Any, shape: tuple[int, ...], rows: tuple[int, ...] | None) -> bool:
    """Whether the stored elements are those of the whole tensor, or of the rows."""
    if data.shape is None:
        return rows is None
    if rows is None:
        return bool(tuple(data.shape) == shape)
    inside = bool(shape) and max(rows, default=0) < rows_of(shape)
    return inside and tuple(data.shape) == (len(rows), shape[-1])
