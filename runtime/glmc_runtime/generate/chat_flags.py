"""Chats on the command line: what stands around a prompt, and what its template is told."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from glmc_runtime.command.options import Option
from glmc_runtime.command.request_files import text_of_file
from glmc_runtime.errors import RequestError

if TYPE_CHECKING:
    from glmc_runtime.generate.text import Text

GROUP = "Chat"
_OWN = frozenset({"messages", "tools", "documents", "chat_template"})


CHAT_OPTIONS = (
    Option("--system", "A system message first.", metavar="TEXT", group=GROUP),
    Option(
        "--tools", "JSON list of the tools that the model may call.", metavar="FILE", group=GROUP
    ),
    Option(
        "--chat-template",
        "One of several templates, or a template itself.",
        metavar="NAME",
        group=GROUP,
    ),
    Option(
        "--chat-variable",
        "A variable of the template, such as enable_thinking=false; repeatable.",
        many=True,
        metavar="NAME=JSON",
        group=GROUP,
    ),
)
ONE_TURN_OPTIONS = (
    Option(
        "--chat", "Put each prompt through the chat template.", bool, default=False, group=GROUP
    ),
    *CHAT_OPTIONS,
)
"""Those of a prompt that may or may not be a chat."""


class Chat:
    """What the flags say; raises :class:`RequestError` for flags that can't be right."""

    def __init__(self, options: SimpleNamespace) -> None:
        self.asked: bool = getattr(options, "chat", True)  # a conversation is one without asking
        self._system: str | None = options.system
        self._options: dict[str, Any] = dict(map(_variable, options.chat_variable or ()))
        if options.tools is not None:
            self._options["tools"] = _tools(options.tools)
        if options.chat_template is not None:
            self._options["chat_template"] = options.chat_template
        if not self.asked and (self._options or self._system is not None):
            raise RequestError(
                "--system, --tools, --chat-template and --chat-variable are of a chat",
                remedy="add --chat",
            )

    def prompt(self, text: Text, prompt: str) -> str | list[int]:
        """The prompt, as the token ids of a chat where one was asked for."""
        if not self.asked:
            return prompt
        return self.encode(text, [*self.opening, {"role": "user", "content": prompt}])

    @property
    def opening(self) -> list[dict[str, str]]:
        """The messages before the first of a user."""
        return [] if self._system is None else [{"role": "system", "content": self._system}]

    def encode(self, text: Text, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a chat that asks for an answer."""
        return text.encode_chat(messages, **self._options)


def _variable(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals or name in _OWN:
        raise RequestError(
            "--chat-variable is no variable of a template",
            expected="such as enable_thinking=false",
            found=repr(text),
        )
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"the value of --chat-variable {name} is no JSON: {error}",
            expected="such as false, 3 or '\"a text in quotes\"'",
            found=repr(value),
        ) from error


def _tools(file: str) -> list[Any]:
    try:
        tools = json.loads(text_of_file("--tools", file))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"--tools is no JSON file: {error}", place=file) from error
    if not isinstance(tools, list):
        raise RequestError("--tools holds no list of tools", place=file, expected="a JSON list")
    return tools
