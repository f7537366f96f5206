"""Flags of a chat: what reaches the template, and what is refused before an artifact is read."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glmc_runtime.cli import main
from glmc_runtime.command.parser import add_options
from glmc_runtime.errors import RequestError
from glmc_runtime.generate.chat_flags import ONE_TURN_OPTIONS, Chat
from glmc_runtime.generate.text import Text


class Shown(Text):
    """Gives the rendered text in place of its ids."""

    def encode_chat(self, messages: Any, **options: Any) -> Any:
        return self.chat(messages, **options)


def chat(*flags: str) -> Chat:
    parser = argparse.ArgumentParser()
    add_options(parser, ONE_TURN_OPTIONS)
    return Chat(parser.parse_args(flags, SimpleNamespace()))


def test_what_reaches_the_template(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"name": "weather"}]))
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{{ tools[0].name }} {{ enable_thinking }} {{ effort }} {{ add_generation_prompt }}"
    )
    text = Shown({"chat_template.jinja": template.encode()})
    flags = ["--chat", "--system", "Be brief.", "--tools", str(tools)]
    flags += ["--chat-variable", "enable_thinking=false", "--chat-variable", 'effort="a=b"']
    wanted = "<system>Be brief.<user>hiweather False a=b True"
    assert chat(*flags).prompt(text, "hi") == wanted  # type: ignore[comparison-overlap]
    flags += ["--chat-template", "{{ tools | length }}"]
    assert chat(*flags).prompt(text, "hi") == "1"  # type: ignore[comparison-overlap]
    assert chat().prompt(text, "hi") == "hi"


@pytest.mark.parametrize(
    "flags",
    [
        ["--system", "x"],
        ["--chat-variable", "a=1"],
        ["--chat", "--chat-variable", "a"],
        ["--chat", "--chat-variable", "=1"],
        ["--chat", "--chat-variable", "a=False"],
        ["--chat", "--chat-variable", "messages=[]"],
    ],
)
def test_flags_that_can_not_be_right(flags: list[str]) -> None:
    with pytest.raises(RequestError):
        chat(*flags)


def test_files_of_tools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tools.json"
    for text in ("{", "{}"):
        path.write_text(text)
        with pytest.raises(RequestError, match="--tools"):
            chat("--chat", "--tools", str(path))
    arguments = ["run", "no artifact", "--chat", "--prompt", "a", "--tools", "missing\x1b.json"]
    assert main(arguments) == 2
    assert "missing\\x1b.json" in capsys.readouterr().err
