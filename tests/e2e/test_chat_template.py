"""The runtime's chats against those of transformers: variables, tools, templates, continuation."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union

import pytest
from transformers import AutoTokenizer
from transformers.utils import get_json_schema

from glmc.tokenizer import tokenizer_files
from glmc_runtime.errors import RequestError
from glmc_runtime.generate.text import Text
from glmc_runtime.generate.text.tools import function_schema
from tests.e2e.test_tokenizer import in_json, write_tokenizer

# In the manner of GLM-4.5: tools, thinking that can be switched off, what was thought before.
GLM = """[gMASK]<sop>
{%- if tools %}
<|system|>
# Tools
{% for tool in tools %}
{{ tool | tojson(ensure_ascii=False) }}
{% endfor %}
{%- endif %}
{%- macro visible(content) -%}
{%- if content is string -%}{{ content }}
{%- elif content is iterable and content is not mapping -%}
{%- for item in content -%}
{%- if item is mapping and item.type == 'text' -%}{{ item.text }}{%- endif -%}
{%- endfor -%}
{%- else -%}{{ content }}{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(last_user_index=-1) -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}{%- set ns.last_user_index = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}<|user|>
{{ visible(m.content) }}
{%- set quiet = enable_thinking is defined and not enable_thinking -%}
{{- '/nothink' if (quiet and not visible(m.content).endswith('/nothink')) else '' -}}
{%- elif m.role == 'assistant' -%}
<|assistant|>
{%- set content = visible(m.content) -%}
{%- if m.reasoning_content is string -%}{%- set reasoning = m.reasoning_content -%}
{%- elif '</think>' in content -%}
{%- set reasoning = content.split('</think>')[0].split('<think>')[-1] -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{%- if loop.index0 > ns.last_user_index and reasoning -%}
{{ '\\n<think>' + reasoning.strip() + '</think>' }}
{%- else -%}{{ '\\n<think></think>' }}{%- endif -%}
{%- if content.strip() -%}{{ '\\n' + content.strip() }}{%- endif -%}
{%- for call in m.tool_calls or [] -%}
{{ '\\n<tool_call>' + call.function.name }}
{%- for key, value in call.function.arguments.items() -%}
<arg>{{ key }}={{ value | tojson(ensure_ascii=False) if value is not string else value }}</arg>
{%- endfor -%}
{%- endfor -%}
{%- elif m.role == 'system' -%}<|system|>
{{ visible(m.content) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>
{{- '\\n<think></think>' if (enable_thinking is defined and not enable_thinking) else '' -}}
{%- endif -%}"""
TOOL = {"type": "function", "function": {"name": "weather", "description": "天气 <b>"}}
ASKED = {"role": "user", "content": "你好 <b>?"}
CALLS = [{"function": {"name": "weather", "arguments": {"city": "北京", "days": 3}}}]
CHATS: list[list[dict[str, Any]]] = [
    [ASKED],
    [{"role": "system", "content": "Be brief."}, ASKED],
    [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}],
    [ASKED, {"role": "assistant", "content": "<think>so</think>\nyes"}, ASKED],
    [ASKED, {"role": "assistant", "content": "yes", "reasoning": "because", "name": None}],
    [ASKED, {"role": "assistant", "content": "", "tool_calls": CALLS}],
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"tools": [TOOL]},
    {"enable_thinking": False},
    {"tools": [TOOL], "enable_thinking": True, "eos_token": "mine"},
    {"add_generation_prompt": False},
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat")
    write_tokenizer(path)
    (path / "chat_template.jinja").write_text(GLM)
    return path


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options))
def test_chats_are_those_of_transformers(directory: Path, options: dict[str, Any]) -> None:
    peer, text = AutoTokenizer.from_pretrained(directory), Text(tokenizer_files(directory).files)
    for chat in CHATS:
        given = {"add_generation_prompt": True, **options}
        assert text.chat(chat, **options) == peer.apply_chat_template(chat, tokenize=False, **given)
        ids = peer.apply_chat_template(chat, return_dict=False, **given)
        assert text.encode_chat(chat, **options) == ids


@pytest.mark.parametrize("field", [True, "reasoning_content"])
def test_continuations_are_those_of_transformers(directory: Path, field: Any) -> None:
    peer, text = AutoTokenizer.from_pretrained(directory), Text(tokenizer_files(directory).files)
    chat = [ASKED, {"role": "assistant", "content": "It is ", "reasoning_content": "a b"}]
    wanted = peer.apply_chat_template(chat, tokenize=False, continue_final_message=field)
    assert text.chat(chat, continue_final_message=field) == wanted


def test_templates_are_found_where_transformers_finds_them(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    stages = [
        lambda: (tmp_path / "chat_template.json").write_text('{"chat_template": "legacy"}'),
        in_settings(
            tmp_path, [{"name": "default", "template": "d"}, {"name": "rag", "template": "r"}]
        ),
        lambda: (tmp_path / "chat_templates").mkdir(),
        lambda: (tmp_path / "chat_templates" / "tool_use.jinja").write_text("t{{ tools[0].type }}"),
        lambda: (tmp_path / "chat_template.jinja").write_text("file\r\n{{ 1 }}"),
    ]
    for number, stage in enumerate(stages):
        stage()
        peer, text = AutoTokenizer.from_pretrained(tmp_path), Text(tokenizer_files(tmp_path).files)
        if number == 0:  # which a processor reads, and a tokenizer does not
            assert peer.chat_template is None
            assert text.chat([ASKED]) == "legacy"
            continue
        for more in ({}, {"tools": [TOOL]}, {"chat_template": "rag"}, {"chat_template": "none"}):
            try:
                wanted = peer.apply_chat_template([ASKED], tokenize=False, **more)
            except ValueError:
                with pytest.raises(RequestError):
                    text.chat([ASKED], **more)
            else:
                assert text.chat([ASKED], **more) == wanted


def in_settings(directory: Path, templates: Any) -> Any:
    return lambda: in_json("tokenizer_config.json", chat_template=templates)(directory)


class Colour(Enum):
    RED = "red"
    BLUE = 2


def plain(city: str, days: int = 3) -> str:
    """Tell the weather.

    It may rain.

    Args:
        city: Name of the city,
            with its country
        days: How many (choices: [1, 3])

    Returns:
        A sentence: one.

    Raises:
        ValueError: never
    """
    return city


def kinds(
    a: list[int],
    b: dict[str, float],
    c: bool | None,
    d: Union[int, str, None],
    e: Literal["x", 1],
    f: tuple[int, str],
    g: list,  # type: ignore[type-arg]
    h: Any,
    i: Colour,
    j: list[int] | dict[str, int],
    k: int | None = None,
) -> dict[str, Any]:
    """All kinds.
    Args:
        a: 1
        b: 2
        c: 3
        d: 4
        e: 5
        f: 6
        g: 7
        h: 8
        i: 9
        j: 10
        k: 11
    """
    return {}


def bare() -> None:
    """No argument, and what it returns is said. Returns: nothing."""


class Tools:
    def method(self, x: float) -> None:
        """A method.

        Args:
          x: number: with a colon
        """


@pytest.mark.parametrize("function", [plain, kinds, bare, Tools().method, Tools.method])
def test_schemas_of_functions_are_those_of_transformers(function: Any) -> None:
    assert function_schema(function) == get_json_schema(function)


def no_docstring(a: int) -> None: ...


def no_description(a: int) -> None:
    """Text."""


def no_annotation(a) -> None:  # type: ignore[no-untyped-def]
    """Text.

    Args:
        a: b
    """


def no_kind(a: Path) -> None:
    """Text.

    Args:
        a: b
    """


@pytest.mark.parametrize("function", [no_docstring, no_description, no_annotation, no_kind])
def test_functions_that_are_no_tools(function: Any) -> None:
    with pytest.raises(Exception):  # noqa: B017 - transformers has several kinds
        get_json_schema(function)
    with pytest.raises(RequestError, match="can't be a tool"):
        function_schema(function)
