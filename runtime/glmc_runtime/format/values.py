"""``values.json`` of an artifact: which value of the model each kernel call completes.

A value is a node of the program that was lowered. Several calls may work for one node, and buffers
are reused, so a value is whole right after ``call`` and may be gone after the next one. A value
reads as a node of the captured model where ``captured`` names one, packed by token, and as tensors
of the modules in ``keys``: as what a module returns first, then as what others take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glmc_runtime.format.tensor_key import TensorKey

VALUES = "values.json"
FORMAT = 1


@dataclass(frozen=True)
class PlanValue:
    """``call`` is the place of the last call for the node; ``node`` its id, whole, with ``[1]`` for
    one of several results. ``buffer`` is the id of the plan's buffer that holds it, or ``cache``
    and ``layer`` name a tensor of the KV cache. ``dtype`` and ``shape`` are the node's; a size
    that follows the step is the text of its extent. ``op`` is the semantic op, ``source`` the line
    of the model, ``passes`` what made or changed the node."""

    call: int
    node: str
    op: str
    module: str
    layer: int | None
    dtype: str
    shape: tuple[str, ...]
    buffer: int | None
    cache: str | None
    captured: str | None
    keys: tuple[TensorKey, ...]
    source: str
    passes: tuple[str, ...]


@dataclass(frozen=True)
class Values:
    """The values of each phase, in the order of the calls, by the phase's name."""

    phases: Mapping[str, tuple[PlanValue, ...]]


def values_to_json(values: Values) -> dict[str, Any]:
    """Plain data; the keys of tensors as text."""
    return {
        "format": FORMAT,
        "phases": {name: [_to_json(each) for each in some] for name, some in values.phases.items()},
    }


def _to_json(value: PlanValue) -> dict[str, Any]:
    data = dict(vars(value))
    data["shape"], data["passes"] = list(value.shape), list(value.passes)
    data["keys"] = [list(vars(key).values()) for key in value.keys]
    return data


def values_from_json(data: Mapping[str, Any]) -> Values:
    """The other way round; raises KeyError or TypeError for what is no such document."""
    return Values({name: tuple(map(_from_json, some)) for name, some in data["phases"].items()})


def _from_json(data: Mapping[str, Any]) -> PlanValue:
    return PlanValue(
        **{
            **data,
            "shape": tuple(data["shape"]),
            "passes": tuple(data["passes"]),
            "keys": tuple(TensorKey(*each) for each in data["keys"]),
        }
    )
