"""The JSON form of a phase, and back to an equal value."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from glmc_runtime.errors import PlanError
from glmc_runtime.format.extent import Extent, Shape
from glmc_runtime.format.phases import phase_of
from glmc_runtime.format.plan import (
    Argument,
    Buffer,
    BufferArgument,
    CacheArgument,
    Call,
    ExtentArgument,
    Head,
    InputArgument,
    InputSpec,
    ListArgument,
    PhasePlan,
    Segment,
    ValueArgument,
    ViewArgument,
    WeightArgument,
)
from glmc_runtime.format.records import misfit

SCHEMA_VERSION = 3


Names = tuple[str, ...]


def _shape_to_json(shape: Shape) -> list[int | str]:
    return [extent.to_json() for extent in shape]


def _shape_from_json(data: Any, symbols: Names) -> Shape:
    if not isinstance(data, list):
        raise TypeError(f"a shape is {data!r:.60} and not a list")
    return tuple(Extent.parse(item, symbols) for item in data)


def _argument_to_json(argument: Argument) -> dict[str, Any]:
    if isinstance(argument, (BufferArgument, InputArgument)):
        data: dict[str, Any] = (
            {"buffer": argument.buffer}
            if isinstance(argument, BufferArgument)
            else {"input": argument.input}
        )
        if argument.shape is not None:
            data["shape"] = _shape_to_json(argument.shape)
        if argument.real:
            data["real"] = True
        return data
    if isinstance(argument, WeightArgument):
        if argument.rows is None:
            return {"weight": argument.weight}
        return {"weight": argument.weight, "rows": list(argument.rows)}
    if isinstance(argument, CacheArgument):
        return {"cache": argument.cache, "layer": argument.layer}
    if isinstance(argument, ExtentArgument):
        data = {"extent": argument.extent.to_json()}
        if argument.real:
            data["real"] = True
        return data
    if isinstance(argument, (ViewArgument, ListArgument)):
        raise PlanError(f"a {type(argument).__name__} is in no artifact")
    return {"value": argument.value}


def _argument_from_json(data: dict[str, Any], symbols: Names) -> Argument:
    shape = _shape_from_json(data["shape"], symbols) if "shape" in data else None
    real = data.get("real", False)
    if "buffer" in data:
        return BufferArgument(data["buffer"], shape, real)
    if "input" in data:
        return InputArgument(data["input"], shape, real)
    if "weight" in data:
        rows = data.get("rows")
        return WeightArgument(data["weight"], None if rows is None else tuple(rows))
    if "cache" in data:
        return CacheArgument(data["cache"], data["layer"])
    if "extent" in data:
        return ExtentArgument(Extent.parse(data["extent"], symbols), real)
    if "value" in data:
        return ValueArgument(data["value"])
    raise PlanError(f"an argument of an unknown kind: {sorted(data)}")


def phase_to_json(plan: PhasePlan) -> dict[str, Any]:
    """The phase as JSON data; :func:`phase_from_json` reads it back to an equal value."""
    return {
        "schema_version": SCHEMA_VERSION,
        "name": plan.name,
        "arena": plan.arena.to_json(),
        "output": plan.output,
        **({} if plan.greedy is None else {"greedy": plan.greedy}),
        **({} if plan.head is None else {"head": asdict(plan.head)}),
        "inputs": [
            {"name": spec.name, "dtype": spec.dtype, "shape": _shape_to_json(spec.shape)}
            for spec in plan.inputs
        ],
        "buffers": [
            {
                "id": buffer.id,
                "name": buffer.name,
                "dtype": buffer.dtype,
                "shape": _shape_to_json(buffer.shape),
                "offset": buffer.offset.to_json(),
                "first": buffer.first,
                "last": buffer.last,
            }
            for buffer in plan.buffers
        ],
        "segments": [
            {"first": segment.first, "last": segment.last, "captured": segment.captured}
            for segment in plan.segments
        ],
        "calls": [
            {
                "function": call.function,
                "arguments": {
                    name: _argument_to_json(argument) for name, argument in call.arguments.items()
                },
                "writes": list(call.writes),
                "host": call.host,
                "node": call.node,
                "origin": call.origin,
                "layer": call.layer,
                "module": call.module,
            }
            for call in plan.calls
        ],
    }


def phase_from_json(data: dict[str, Any]) -> PhasePlan:
    """Read a phase; raises :class:`PlanError` when a field is missing or of another kind."""
    try:
        if data["schema_version"] != SCHEMA_VERSION:
            raise PlanError(
                "the plan has another schema version",
                expected=str(SCHEMA_VERSION),
                found=str(data["schema_version"]),
                remedy="make it anew with this runtime's glmc: glmc compile MODEL --output DIR",
            )
        symbols = phase_of(data["name"]).symbols
        plan = PhasePlan(
            name=data["name"],
            inputs=tuple(
                InputSpec(item["name"], item["dtype"], _shape_from_json(item["shape"], symbols))
                for item in data["inputs"]
            ),
            buffers=tuple(
                Buffer(
                    item["id"],
                    item["name"],
                    item["dtype"],
                    _shape_from_json(item["shape"], symbols),
                    Extent.parse(item["offset"], symbols),
                    item["first"],
                    item["last"],
                )
                for item in data["buffers"]
            ),
            calls=tuple(
                Call(
                    item["function"],
                    {
                        name: _argument_from_json(arg, symbols)
                        for name, arg in item["arguments"].items()
                    },
                    tuple(item["writes"]),
                    item["host"],
                    item["node"],
                    item["origin"],
                    item["layer"],
                    item["module"],
                )
                for item in data["calls"]
            ),
            segments=tuple(
                Segment(item["first"], item["last"], item["captured"]) for item in data["segments"]
            ),
            output=data["output"],
            arena=Extent.parse(data["arena"], symbols),
            greedy=data.get("greedy"),
            head=Head(**data["head"]) if "head" in data else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanError(f"the plan is not well formed: {error!r}") from error
    problem = misfit(plan, PhasePlan, "plan")
    if problem is not None:
        raise PlanError(f"the plan is not well formed: {problem}")
    return plan
