"""A plan of two calls, as an artifact holds it."""

from __future__ import annotations

from typing import Any


def toy_plan() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "name": "decode",
        "arena": "256*tokens",
        "output": 2,
        "inputs": [
            {"name": "token_ids", "dtype": "int64", "shape": ["tokens"]},
            {"name": "positions", "dtype": "int64", "shape": ["tokens"]},
        ],
        "buffers": [
            buffer(0, "embed", "128*tokens", 0, 1),
            buffer(1, "scratch", 0, 1, 1),
            buffer(2, "norm", "64*tokens", 1, 1),
        ],
        "segments": [{"first": 0, "last": 1, "captured": True}],
        "calls": [
            call("cpu.embedding", "embed", {"input": "token_ids"}, {"buffer": 0}, ["out"]),
            call(
                *("cpu.rms_norm", "norm", {"buffer": 0}, {"buffer": 2}, ["out", "hidden"]),
                hidden={"buffer": 1},
                eps={"value": 1e-05},
            ),
        ],
    }


def buffer(number: int, name: str, offset: str | int, first: int, last: int) -> dict[str, Any]:
    shape = ["tokens", 16]
    return {
        **{"id": number, "name": name, "dtype": "float32", "shape": shape},
        **{"offset": offset, "first": first, "last": last},
    }


def call(
    function: str, node: str, x: Any, out: Any, writes: list[str], **arguments: Any
) -> dict[str, Any]:
    return {
        "function": function,
        "arguments": {"x": x, "out": out, **arguments},
        "writes": writes,
        **{"host": False, "node": node, "origin": "glmc.op", "layer": 0, "module": "model"},
    }


def with_a_call_in_front() -> dict[str, Any]:
    """The same plan where one more call, over a buffer of its own, comes first."""
    plan = toy_plan()
    moved = [
        {**one, "id": one["id"] + 1, "first": one["first"] + 1, "last": one["last"] + 1}
        for one in plan["buffers"]
    ]
    for one in plan["calls"]:
        for argument in one["arguments"].values():
            if "buffer" in argument:
                argument["buffer"] += 1
    plan["buffers"] = [buffer(0, "more", "192*tokens", 0, 0), *moved]
    first = call("cpu.copy", "more", {"input": "positions"}, {"buffer": 0}, ["out"])
    plan["calls"] = [first, *plan["calls"]]
    plan["segments"] = [{"first": 0, "last": 2, "captured": True}]
    plan["output"] = 3
    return plan
