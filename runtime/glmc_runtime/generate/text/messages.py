"""Variables of a chat template: messages, tools and more, as plain data."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glmc_runtime.errors import RequestError
from glmc_runtime.generate.text.tools import tool_schema

Message = dict[str, Any]

# Names of what a model thought, the one that templates read by now first.
_REASONING = ("reasoning_content", "thinking", "reasoning")
# Where the final message ends in the rendered text, for a model that goes on with it.
_MARK = "GLMC_FINAL_MESSAGE_ENDS_HERE"


def plain(value: Any) -> Any:
    """The value in None, bool, int, float, str, list, tuple and dict: objects have methods, and a
    template could call them. What has no such form becomes its type's name in angle brackets."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):  # an enum, a scalar of numpy
            return getattr(kind, "__str__" if kind is str else f"__{kind.__name__}__")(value)
    if isinstance(value, Mapping):
        return {plain(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    scalar: Any = getattr(sys.modules.get("numpy"), "generic", ())
    if isinstance(value, scalar):
        return plain(value.item())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if callable(dump := getattr(value, "model_dump", None)):  # pydantic
        return plain(dump())
    return f"<{type(value).__name__}>"


def plain_variables(
    tools: Sequence[Any] | None, documents: Sequence[Any] | None, variables: Mapping[str, Any]
) -> dict[str, Any]:
    """Tools as schemas, documents, and what else the caller gives; raises RequestError."""
    for name, value in (("tools", tools), ("documents", documents)):
        if value is not None and not isinstance(value, (list, tuple)):
            raise RequestError(f"{name} are no list", found=type(value).__name__)
    for document in documents or ():
        if not isinstance(document, dict):
            raise RequestError(
                "a document is no dict", expected="title and text", found=type(document).__name__
            )
    schemas = None if tools is None else [tool_schema(tool) for tool in tools]
    made: dict[str, Any] = _bounded({**variables, "tools": schemas, "documents": documents})
    return made


def plain_messages(messages: Sequence[Any]) -> list[Message]:
    """Messages without fields that are None, and with what was thought under each of its names.

    Raises :class:`RequestError` for what is no message.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise RequestError("the messages are no list", found=type(messages).__name__)
    return [_message(message) for message in _bounded(list(messages))]


def _message(message: Any) -> Message:
    if not isinstance(message, dict):
        raise RequestError(
            "a message is no dict", expected="role and content", found=type(message).__name__
        )
    fields = {name: value for name, value in message.items() if value is not None}
    thought = next((fields[name] for name in _REASONING if name in fields), None)
    if thought is None:
        return fields
    return {"thinking": thought, **fields, "reasoning_content": thought}


def _bounded(value: Any) -> Any:
    try:
        return plain(value)
    except RecursionError as error:
        raise RequestError("the chat holds itself, or is nested too deep") from error


@dataclass(frozen=True)
class Continuation:
    """A chat whose final message the model goes on with: ``messages`` end with a mark."""

    messages: list[Message]
    final: str

    def cut(self, rendered: str) -> str:
        """The rendered text up to the end of the final message."""
        if self.final.strip() not in rendered or _MARK not in rendered:
            raise RequestError(
                "the chat template leaves the final message out, or a part of it",
                remedy="ask without continue_final_message",
            )
        before, _, after = rendered.rpartition(_MARK)
        # A template that trims content has taken the blank after the mark.
        return before if after.startswith(" ") else before.rstrip()


def continuation(messages: list[Message], field: str | bool, template: str) -> Continuation:
    """Mark the end of the final message's ``field`` (True: its content).

    Raises :class:`RequestError` where there is nothing to go on with.
    """
    name = field if isinstance(field, str) else "content"
    if not messages or messages[-1].get(name) is None:
        raise RequestError(f"the final message has no '{name}' to go on with")
    last = dict(messages[-1])
    value = last[name]
    names = [name]
    if name in _REASONING:
        names = [other for other in _REASONING if last.get(other) == value]
    if not any(other in template for other in names):
        raise RequestError(f"the chat template does not read '{name}'")
    if isinstance(value, str):
        last.update({other: f"{value}{_MARK} " for other in names})
        return Continuation([*messages[:-1], last], value)
    parts = list(value) if isinstance(value, (list, tuple)) else []
    for number in reversed(range(len(parts))):
        if isinstance(parts[number], dict) and isinstance(text := parts[number].get("text"), str):
            parts[number] = {**parts[number], "text": f"{text}{_MARK} "}
            return Continuation([*messages[:-1], {**last, name: parts}], text)
    raise RequestError(f"the final message's '{name}' holds no text to go on with")
