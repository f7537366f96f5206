"""A Python function as the JSON schema that a chat template shows to a model.

The form is that of transformers: names and kinds from annotations, descriptions from a docstring
in Google's style, ``(choices: [...])`` after a description as its enum.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from glmc_runtime.errors import RequestError

Schema = dict[str, Any]

_SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_KINDS = {**_SCALARS, list: "array", tuple: "array", dict: "object"}
_MEDIA = {("torch", "Tensor"): "audio", ("PIL.Image", "Image"): "image"}
_ARGS = re.compile(r"\n\s*Args:\n")
_RETURNS = re.compile(r"\n\s*Returns:\n")
_ARGUMENT = re.compile(r"([ \t]*)(\w+):[ \t]*(.*)")
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)


def tool_schema(tool: Any) -> Any:
    """A schema as it is, and that of a function; raises :class:`RequestError` for anything else."""
    if isinstance(tool, dict):
        return tool
    if inspect.isfunction(tool) or inspect.ismethod(tool):
        return function_schema(tool)
    raise RequestError(
        "a tool is neither a JSON schema nor a function",
        expected="a dict, or a function with annotations and a docstring",
        found=type(tool).__name__,
    )


def function_schema(function: Callable[..., Any]) -> Schema:
    """The schema of a function; raises :class:`RequestError` for what its signature lacks."""
    name = getattr(function, "__name__", "operation")
    text = (inspect.getdoc(function) or "").strip()
    if not text:
        raise _lacking(name, "a docstring")
    about, described, returned = docstring_parts(text)
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError) as error:
        raise _lacking(name, f"annotations that can be read: {error}") from error
    parameters = dict(inspect.signature(function).parameters)
    first = next(iter(parameters), "")
    if first in ("self", "cls") and parameters[first].annotation is inspect.Parameter.empty:
        del parameters[first]
        hints.pop(first, None)
    for parameter_name, parameter in parameters.items():
        if parameter.annotation is inspect.Parameter.empty:
            raise _lacking(name, f"an annotation of '{parameter_name}'")
    result = hints.pop("return", None) if "return" in hints else inspect.Parameter.empty
    properties = {
        parameter_name: _argument(name, parameter_name, hint, described)
        for parameter_name, hint in hints.items()
    }
    schema: Schema = {"type": "object", "properties": properties}
    required = [
        parameter_name
        for parameter_name, item in parameters.items()
        if item.default is inspect.Parameter.empty
    ]
    if required:
        schema["required"] = required
    made: Schema = {"name": name, "description": about, "parameters": schema}
    if result is not inspect.Parameter.empty and (kind := hint_schema(result)) is not None:
        made["return"] = kind if returned is None else {**kind, "description": returned}
    return {"type": "function", "function": made}


def _argument(name: str, parameter_name: str, hint: Any, described: dict[str, str]) -> Schema:
    schema = hint_schema(hint)
    if schema is None:
        raise _lacking(
            name, f"an annotation of '{parameter_name}' that JSON has a kind for", repr(hint)
        )
    if parameter_name not in described:
        raise _lacking(name, f"a description of '{parameter_name}' under Args")
    text = described[parameter_name]
    if choices := _CHOICES.search(text):
        try:
            values = json.loads(choices[1])
        except ValueError as error:
            raise _lacking(
                name, f"choices of '{parameter_name}' as a JSON list", choices[1]
            ) from error
        schema["enum"] = [item.strip() if isinstance(item, str) else item for item in values]
        text = text[: choices.start()].strip()
    schema["description"] = text
    return schema


def hint_schema(hint: Any) -> Schema | None:
    """The schema of an annotation; None for what JSON has no kind for."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _union(args)
    if origin is Literal:
        return _enumeration(args)
    if origin is list:
        items = hint_schema(args[0])
        return None if items is None else {"type": "array", "items": items}
    if origin is tuple:
        return _tuple(args)
    if origin is dict:
        values = hint_schema(args[1]) if len(args) == 2 else {}
        return None if values is None else {"type": "object", "additionalProperties": values}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enumeration([member.value for member in hint])
    if hint is Any:
        return {}
    media = _MEDIA.get((getattr(hint, "__module__", ""), getattr(hint, "__qualname__", "")))
    kind = _KINDS.get(hint) or media if isinstance(hint, type) else None
    return None if kind is None else {"type": kind}


def _union(args: tuple[Any, ...]) -> Schema | None:
    schemas = [hint_schema(arg) for arg in args if arg is not type(None)]
    parts = [part for part in schemas if part is not None]
    if len(parts) < len(schemas):
        return None
    if len(parts) == 1:
        union = dict(parts[0])
    elif all(part.keys() == {"type"} and isinstance(part["type"], str) for part in parts):
        kinds = sorted({part["type"] for part in parts})
        union = {"type": kinds[0] if len(kinds) == 1 else kinds}
    else:
        union = {"anyOf": parts}
    if type(None) in args:
        union["nullable"] = True
    return union


def _enumeration(values: Any) -> Schema | None:
    if not values or any(type(value) not in _SCALARS for value in values):
        return None
    kinds = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(values)}


def _tuple(args: tuple[Any, ...]) -> Schema | None:
    if len(args) == 1 or Ellipsis in args:
        return None
    if not args:
        return {"type": "array"}
    items = [hint_schema(arg) for arg in args]
    return None if None in items else {"type": "array", "prefixItems": items}


def docstring_parts(text: str) -> tuple[str, dict[str, str], str | None]:
    """What a docstring says of the function, of each argument, and of what is returned."""
    about = _up_to(text, "Args:", "Returns:", "Raises:")
    arguments, returned = _ARGS.search(text), _RETURNS.search(text)
    section = _up_to(text[arguments.end() :], "Returns:", "Raises:") if arguments else ""
    result = _up_to(text[returned.end() :], "Raises:").strip() if returned else None
    return about.strip(), _arguments(section), result


def _up_to(text: str, *heads: str) -> str:
    """The text before the first of the heads, wherever it stands: as transformers reads it."""
    ends = [place for place in map(text.find, heads) if place >= 0]
    return text[: min(ends)] if ends else text


def _arguments(section: str) -> dict[str, str]:
    """``name: text`` each; a line that is indented deeper than the names goes on with the text."""
    descriptions: dict[str, list[str]] = {}
    indent: str | None = None
    lines: list[str] = []
    for line in section.split("\n"):
        begins = _ARGUMENT.match(line)
        if begins and (indent is None or len(begins[1]) <= len(indent)):
            indent, name = begins[1], begins[2]
            lines = descriptions.setdefault(name, [])
            lines.append(begins[3].strip())
        elif line.strip():
            lines.append(line.strip())
    return {name: " ".join(part for part in texts if part) for name, texts in descriptions.items()}


def _lacking(name: str, what: str, found: str = "") -> RequestError:
    return RequestError(
        f"the function '{name}' can't be a tool: it lacks {what}",
        found=found,
        remedy="add it, or give the tool as a JSON schema",
    )
