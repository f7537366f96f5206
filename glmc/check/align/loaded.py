"""The values of a pair of recorded tensors: read, in one layout, with the dtype of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from glmc.check.align.layout import Reading, in_both, rows_of
from glmc.check.align.metrics import coarser
from glmc.check.align.pairing import Pair, has_shape
from glmc_runtime.format.dtypes import DTYPES, dtype_of
from glmc_runtime.format.tensor_key import OUTPUT, PARAMS
from glmc_runtime.record.tensors import Record, RecordedTensor, Statistics

_NARROW = torch.bfloat16, torch.float16
_ASKED = 16


@dataclass(frozen=True)
class Loaded:
    """Rows [rows, width] that both sides have, and their numbers in the common layout; ``dtype`` is
    the coarser of what the two were computed in."""

    expected: Tensor
    actual: Tensor
    numbers: Tensor
    dtype: torch.dtype


def load(pair: Pair, narrow: tuple[bool, bool]) -> Loaded | None:
    """Read a pair; None where a side has statistics alone, or the two have no row in common.
    ``narrow``: of which side what is stored in float32 may have been computed in less."""
    layout = pair.layout
    expected = _rows(pair.expected, layout.expected, layout.width)
    actual = _rows(pair.actual, layout.actual, layout.width)
    if expected is None or actual is None:
        return None
    was, now, numbers = in_both(expected, actual)
    if not len(numbers):
        return None
    dtype = coarser(
        _computed(pair.expected, was, narrow[0]), _computed(pair.actual, now, narrow[1])
    )
    if pair.expected.key.kind == PARAMS:
        # Weights are not computed: in the coarser dtype they are equal.
        was, now = was.to(dtype), now.to(dtype)
    return Loaded(was, now, numbers, dtype)


def statistics_of_pair(pair: Pair) -> tuple[Statistics, Statistics] | None:
    """Those of the wholes, where the two are of the same elements."""
    was, now = pair.expected.statistics, pair.actual.statistics
    readings = pair.layout.expected, pair.layout.actual
    if was is None or now is None or any(each.columns is not None for each in readings):
        return None
    sizes = {prod(each.shape) for each in (pair.expected, pair.actual) if has_shape(each)}
    return (was, now) if len(sizes) < 2 else None


def known_dtype(name: object) -> torch.dtype | None:
    """None for a name that torch has not, or none."""
    return dtype_of(name) if isinstance(name, str) and name in DTYPES else None


def dtype_of_record(record: Record, tensors: Sequence[RecordedTensor]) -> torch.dtype | None:
    """What a record's values were computed in, by what it says or by what some of its outputs are.

    numpy has no bfloat16, so other tools store it as float32: then most outputs have no value that
    the narrower dtype has not. None where nothing is known of values.
    """
    said = known_dtype(record.facts.get("dtype"))
    if said is not None:
        return said
    outputs = [each for each in tensors if each.key.kind == OUTPUT and "float" in each.dtype]
    asked = outputs[:: max(1, len(outputs) // _ASKED)]
    found = Counter(_computed(each, each.load(), True) for each in asked if each.load is not None)
    return found.most_common(1)[0][0] if found else None


def _rows(tensor: RecordedTensor, reading: Reading, width: int) -> tuple[Tensor, Tensor] | None:
    if tensor.load is None:
        return None
    return rows_of(tensor.load(), tensor.shape, tensor.rows, reading, width)


def _computed(tensor: RecordedTensor, stored: Tensor, narrow: bool) -> torch.dtype:
    dtype = known_dtype(tensor.dtype) or stored.dtype
    if not narrow or dtype is not torch.float32 or stored.dtype is not torch.float32:
        return dtype
    finite = stored.nan_to_num()
    return next((each for each in _NARROW if torch.equal(finite.to(each).float(), finite)), dtype)
