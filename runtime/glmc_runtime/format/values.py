"""``values.json`` of an artifact: which value of the model each kernel call completes.

A value is a node of the program that was lowered. Several calls may work for one node, and buffers
are reused, so a value is whole right after ``call`` and may be gone after the next one. A value
reads as a node of the captured model where ``captured`` names one, packed by token, and as tensors
of the modules in ``keys``: as what a module returns first, then as what others take. Where only
some columns of it are a tensor of the model, ``parts`` says which.

Of several ranks a value may be ``dealt``: what is said of it, its dtype and shape aside, is of what
the ranks have together.

Numbers are those of a token: a tensor of a module may have them in another shape, as the input of
``o_proj`` has the heads of attention side by side. Logits are of each sequence's last token only,
and a router's experts and their weights may come in another order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glmc_runtime.errors import ArtifactError, PlanError
from glmc_runtime.format.artifact_files import ArtifactFiles
from glmc_runtime.format.dealt import Dealt, dealt_from_json, dealt_to_json, impossible_dealt
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.json_file import json_of
from glmc_runtime.format.phases import PHASES
from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.format.records import misfit
from glmc_runtime.format.tensor_key import KINDS, TensorKey

VALUES = "values.json"
FORMAT = 2
BLOCKS = "blocks"
"""In the shape of a cache, the number of its blocks."""


@dataclass(frozen=True)
class ValuePart:
    """Columns ``start`` to ``stop``, not counted, of a value's last dimension."""

    start: int
    stop: int
    captured: str | None
    keys: tuple[TensorKey, ...]


@dataclass(frozen=True)
class PlanValue:
    """``call`` is the place of the last call for the node; ``node`` its id, whole, with ``[1]`` for
    one of several results. ``buffer`` is the id of the plan's buffer that holds it, or ``cache``
    and ``layer`` name a tensor of the KV cache. ``dtype`` and ``shape`` are the node's; a size
    that follows the step is the text of its extent, and the number of blocks of a cache
    ``blocks``. ``op`` is the semantic op, ``source`` the line of the model, ``passes`` what made or
    changed the node. ``dealt`` is None where each rank has the whole."""

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
    parts: tuple[ValuePart, ...] = ()
    dealt: Dealt | None = None


@dataclass(frozen=True)
class Values:
    """The values of each phase, in the order of the calls, by the phase's name."""

    phases: Mapping[str, tuple[PlanValue, ...]]


def values_to_json(values: Values) -> dict[str, Any]:
    """Plain data; the keys of tensors as rows."""
    return {
        "format": FORMAT,
        "phases": {name: [_to_json(each) for each in some] for name, some in values.phases.items()},
    }


def _to_json(value: PlanValue) -> dict[str, Any]:
    data = dict(vars(value))
    data["shape"], data["passes"] = list(value.shape), list(value.passes)
    data["keys"] = _keys_to_json(value.keys)
    data["parts"] = [{**vars(part), "keys": _keys_to_json(part.keys)} for part in value.parts]
    data["dealt"] = dealt_to_json(value.dealt)
    return data


def _keys_to_json(keys: tuple[TensorKey, ...]) -> list[list[Any]]:
    return [list(vars(key).values()) for key in keys]


def values_from_json(data: Any) -> Values:
    """The other way round; raises :class:`ArtifactError` for what is no such document."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ArtifactError(
            f"{VALUES} has another format",
            expected=str(FORMAT),
            found=str(data.get("format") if isinstance(data, dict) else type(data).__name__)[:80],
            remedy="compile the model again with this version",
        )
    try:
        phases = {name: tuple(map(_from_json, some)) for name, some in data["phases"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _not_well_formed(repr(error)[:160]) from error
    problem = misfit(phases, dict[str, tuple[PlanValue, ...]], "phases") or _impossible(phases)
    if problem is not None:
        raise _not_well_formed(problem)
    return Values(phases)


def _from_json(data: dict[str, Any]) -> PlanValue:
    parts = tuple(ValuePart(**{**each, "keys": _keys(each["keys"])}) for each in data["parts"])
    return PlanValue(
        **{
            **data,
            "shape": tuple(data["shape"]),
            "passes": tuple(data["passes"]),
            "keys": _keys(data["keys"]),
            "parts": parts,
            "dealt": dealt_from_json(data["dealt"]),
        }
    )


def _keys(rows: list[list[Any]]) -> tuple[TensorKey, ...]:
    return tuple(TensorKey(*each) for each in rows)


def _impossible(phases: Mapping[str, tuple[PlanValue, ...]]) -> str | None:
    """What is of the right kinds and no table of values all the same."""
    for name, values in phases.items():
        if name not in PHASES:
            return f"there is no phase {name[:60]!r}"
        last = 0
        for number, value in enumerate(values):
            problem = _impossible_value(value, last, (*PHASES[name].symbols, BLOCKS))
            if problem is not None:
                return f"phases.{name}[{number}]{problem}"
            last = value.call
    return None


def _impossible_value(value: PlanValue, last: int, symbols: Sequence[str]) -> str | None:
    if value.call < last:
        return f".call is {value.call}, and not {last} or more"
    if (value.buffer is None) is (value.cache is None):
        return f" is in {value.buffer} and {value.cache}, and not in one of the two"
    if value.cache is not None and value.layer is None:
        return " is in a cache of no layer"
    for size in value.shape:
        try:
            unknown = set(Extent.parse(size).symbols) - {*symbols}
        except PlanError:
            unknown = {size}
        if unknown:
            return f".shape has {min(unknown)[:60]!r}"
    keys = (*value.keys, *(key for part in value.parts for key in part.keys))
    wrong = next((key for key in keys if key.kind not in KINDS), None)
    if wrong is not None:
        return f" has a key of kind {wrong.kind[:60]!r}"
    if not value.keys or any(not 0 <= part.start < part.stop for part in value.parts):
        return " has no key, or a part without columns"
    problem = None if value.dealt is None else impossible_dealt(value.dealt, value.shape)
    return None if problem is None else f".dealt{problem}"


def _not_well_formed(problem: str) -> ArtifactError:
    return ArtifactError(
        f"{VALUES} is not well formed: {problem}",
        remedy="copy the artifact again, or compile the model again",
    )


def read_values(
    files: ArtifactFiles, plans: Iterable[PhasePlan] = (), ranks: int | None = None
) -> Values:
    """The values of an artifact's calls; its hash is compared, and that the values of ``plans``
    are where they have calls and buffers, and dealt to so many ``ranks``. Raises
    :class:`ArtifactError`, also for an artifact that was written without values."""
    if VALUES not in files:
        raise ArtifactError(
            f"the artifact has no {VALUES}",
            place=str(files.root),
            expected="an artifact of a version that writes what its calls complete",
            remedy="compile the model again",
        )
    place = str(files.root / VALUES)
    values = values_from_json(json_of(files.read(VALUES, compare=True), VALUES, place))
    for plan in plans:
        _require_fitting(values, plan, ranks)
    return values


def _require_fitting(values: Values, plan: PhasePlan, ranks: int | None) -> None:
    if plan.name not in values.phases:
        raise _not_well_formed(f"it has no values of {plan.name}")
    buffers = {buffer.id for buffer in plan.buffers}
    for number, value in enumerate(values.phases[plan.name]):
        there = value.cache is not None or value.buffer in buffers
        runs = () if value.dealt is None else value.dealt.runs
        dealt = not runs or ranks in (None, len(runs))
        if value.call >= len(plan.calls) or not there or not dealt:
            raise _not_well_formed(f"phases.{plan.name}[{number}] is of another plan")
