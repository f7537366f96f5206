"""The canonical text of a phase: what the compiler decided, and nothing else.

Out of the plan's JSON go the version of its schema and every number that only counts: buffers are
called after the node whose call first touches them, and in place of numbers of calls the text
says at which call a buffer or segment begins and ends. A call more is then a few lines more, and
the others stay as they are; offsets, which may all move, stand after the calls. Keys are sorted,
the order of calls is kept.

How each weight is made is added, since an artifact only holds the outcome. Its constants were
computed with the vector instructions of this machine, whose last digits differ: four are kept.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

_KEPT_DIGITS = 4
_NOT_DECIDED = ("schema_version",)
_WRITTEN_OUT = ("arena", "buffers", "calls", "inputs", "segments")
# Of a buffer: its number and name, where it begins and ends, and what is said under "memory".
_ELSEWHERE = {"id", "name", "first", "last", "offset"}


@dataclass(frozen=True)
class Renames:
    """New names by old ones, for inputs of a step, functions of calls and their arguments."""

    inputs: Mapping[str, str] = field(default_factory=dict)
    functions: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Renames:
        return cls(**json.loads(file.read_text(encoding="utf-8")))


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def renamed(plan: Mapping[str, Any], renames: Renames) -> dict[str, Any]:
    """The plan's JSON with new names in place of old ones."""

    def argument(data: Mapping[str, Any]) -> dict[str, Any]:
        if "input" not in data:
            return dict(data)
        return {**data, "input": renames.inputs.get(data["input"], data["input"])}

    return {
        **plan,
        "inputs": [
            {**spec, "name": renames.inputs.get(spec["name"], spec["name"])}
            for spec in plan["inputs"]
        ],
        "calls": [
            {
                **call,
                "function": renames.functions.get(call["function"], call["function"]),
                "arguments": {
                    renames.arguments.get(name, name): argument(data)
                    for name, data in call["arguments"].items()
                },
            }
            for call in plan["calls"]
        ],
    }


def canonical(plan: Mapping[str, Any], weights: Mapping[str, Any]) -> str:
    """The text of one phase; ``weights`` are plain data by name."""
    names = _buffer_names(plan["buffers"], plan["calls"])
    lines = [*_head(plan, weights, names), *_body(plan, names), *_memory(plan, names)]
    return "\n".join(lines) + "\n"


def _head(
    plan: Mapping[str, Any], weights: Mapping[str, Any], names: Mapping[int, str]
) -> Iterator[str]:
    yield "phase"
    for key in sorted(plan.keys() - {*_NOT_DECIDED, *_WRITTEN_OUT}):
        value = plan[key]
        if key in ("output", "greedy"):
            value = names[value]
        elif key == "head":
            first = plan["calls"][value["first"]]
            value = {"hidden": names[value["hidden"]], "first": _called(first)}
        yield f"  {key}: {_json(value)}"
    yield from sorted(f"input {_json(item)}" for item in plan["inputs"])
    yield from sorted(f"weight {name} {_json(_rounded(item))}" for name, item in weights.items())


def _body(plan: Mapping[str, Any], names: Mapping[int, str]) -> Iterator[str]:
    buffers, calls = plan["buffers"], plan["calls"]
    starts: dict[int, list[str]] = defaultdict(list)
    ends: dict[int, list[str]] = defaultdict(list)
    for segment in plan["segments"]:
        kept = {key: value for key, value in segment.items() if key not in ("first", "last")}
        starts[segment["first"]].append(f" segment {_json(kept)}")
        ends[segment["last"]].append(" segment ends")
    for buffer in buffers:
        name = names[buffer["id"]]
        kept = {key: buffer[key] for key in buffer.keys() - _ELSEWHERE}
        starts[buffer["first"]].append(f" buffer {name} {_json(kept)}")
        ends[buffer["last"]].append(f" buffer ends {name}")
    for index, call in enumerate(calls):
        yield from sorted(starts.pop(index, []))
        yield from _call(call, names)
        yield from sorted(ends.pop(index, []))
    # Nothing may be dropped: what is outside of the calls is said too.
    for index, lines in sorted((*starts.items(), *ends.items())):
        yield from (f"outside of the calls, at {index}:{line}" for line in lines)


def _memory(plan: Mapping[str, Any], names: Mapping[int, str]) -> Iterator[str]:
    yield "memory"
    yield f"  arena: {_json(plan['arena'])}"
    offsets = {names[buffer["id"]]: buffer["offset"] for buffer in plan["buffers"]}
    yield from (f"  offset of {name}: {_json(offsets[name])}" for name in names.values())


def _call(call: Mapping[str, Any], names: Mapping[int, str]) -> Iterator[str]:
    # At the start of the line, where git looks for what to name a hunk after.
    yield f"call {_called(call)}"
    for name, argument in sorted(call["arguments"].items()):
        if "buffer" in argument:
            argument = {**argument, "buffer": names[argument["buffer"]]}
        yield f"  argument {name}: {_json(argument)}"
    for key in sorted(call.keys() - {"arguments", "function", "node"}):
        value = sorted(call[key]) if key == "writes" else call[key]
        yield f"  {key}: {_json(value)}"


def _called(call: Mapping[str, Any]) -> str:
    return f"{call['function']} of {call['node']}"


def _buffer_names(
    buffers: Sequence[Mapping[str, Any]], calls: Sequence[Mapping[str, Any]]
) -> dict[int, str]:
    """By id a name that does not count the buffers before it."""
    names: dict[int, str] = {}
    seen: Counter[str] = Counter()
    for buffer in sorted(buffers, key=lambda item: (item["first"], item["id"])):
        node, name = calls[buffer["first"]]["node"], buffer["name"]
        label = name if name == node else f"{node}/{name}"
        seen[label] += 1
        names[buffer["id"]] = label if seen[label] == 1 else f"{label} ({seen[label]})"
    return names


def _rounded(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _rounded(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_rounded(item) for item in tree]
    return float(f"{tree:.{_KEPT_DIGITS}g}") if isinstance(tree, float) else tree


def _json(data: Any) -> str:
    return json.dumps(data, sort_keys=True, ensure_ascii=False)
