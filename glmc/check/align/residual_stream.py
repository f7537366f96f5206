"""The residual stream of implementations that keep it in two tensors.

vLLM hands a layer's result and the residual on as two tensors, which the next norm adds up: it
takes (result, residual) and returns (normed, sum), and a decoder layer returns (result, residual).
Hugging Face has the sum alone. So where one side has two tensors of one size and the other has one,
what a norm or a layer takes and what a layer returns is the sum of the two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from math import prod

from torch import Tensor

from glmc.check.align.module_tree import place_of
from glmc_runtime.format.dtypes import DTYPES, dtype_of
from glmc_runtime.format.tensor_key import INPUT, OUTPUT
from glmc_runtime.record.tensors import RecordedTensor

Call = tuple[str, str, int, str, int]


def with_sums(
    tensors: Iterable[RecordedTensor],
    others: Iterable[RecordedTensor],
    modules: Mapping[str, str],
) -> list[RecordedTensor]:
    """``tensors`` with the sums in place of their summands, where ``others`` have one tensor.
    ``modules`` has the module of the other side for each that has one."""
    known = list(tensors)
    counts = {
        (module, kind, size): len(some)
        for (module, _, _, kind, size), some in _of_calls(others).items()
    }
    sums: dict[int, RecordedTensor | None] = {}
    for (module, _, _, kind, size), some in _of_calls(known).items():
        one = counts.get((modules.get(module, ""), kind, size)) == 1
        if len(some) == 2 and one and _is_stream(module, kind):
            total = _total(*some)
            if total is not None:
                sums |= {id(some[0]): total, id(some[1]): None}
    found = (sums.get(id(each), each) for each in known)
    return [each for each in found if each is not None]


def is_norm(module: str) -> bool:
    """Whether a module is a norm by its name."""
    return bool(place_of(module)[1]) and place_of(module)[1][-1].endswith("norm")


def _is_stream(module: str, kind: str) -> bool:
    layer, names = place_of(module)
    whole = layer is not None and not names
    return (kind == INPUT and (whole or is_norm(module))) or (kind == OUTPUT and whole)


def _of_calls(tensors: Iterable[RecordedTensor]) -> dict[Call, list[RecordedTensor]]:
    """Floating-point tensors by call, kind and size."""
    calls: dict[Call, list[RecordedTensor]] = defaultdict(list)
    for each in tensors:
        key = each.key
        if "float" in each.dtype:
            call = key.module, key.class_name, key.call, key.kind, prod(each.shape)
            calls[call].append(each)
    return calls


def _total(one: RecordedTensor, other: RecordedTensor) -> RecordedTensor | None:
    if one.load is None or other.load is None or one.rows != other.rows:
        return None
    if one.shape != other.shape or one.dtype not in DTYPES:
        return None
    key = replace(one.key, name=f"{one.key.name} + {other.key.name}")
    return replace(one, key=key, statistics=None, load=partial(_added, one, other))


def _added(one: RecordedTensor, other: RecordedTensor) -> Tensor:
    assert one.load is not None and other.load is not None
    return (one.load().float() + other.load().float()).to(dtype_of(one.dtype))
