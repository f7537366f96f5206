"""Chat templates: what they see, what they may do, and what bounds them."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from glmc_runtime.errors import ArtifactError, GlmcError, RequestError
from glmc_runtime.generate.text import Text, rendering

pytest.importorskip("jinja2")
HELLO = [{"role": "user", "content": "hi"}]


def text_of(template: str, **settings: Any) -> Text:
    files = {"chat_template.jinja": template.encode()}
    return Text({**files, "tokenizer_config.json": json.dumps(settings).encode()})


def test_templates_by_name_and_where_they_stand() -> None:
    listed = [
        {"name": "default", "template": "d"},
        {"name": "tool_use", "template": "{{ tools[0].name }}"},
        {"name": "rag", "template": "r{{ documents[0].text }}"},
    ]
    config = json.dumps({"chat_template": listed}).encode()
    text = Text({"tokenizer_config.json": config})
    assert text.chat(HELLO) == "d"
    assert text.chat(HELLO, tools=[{"name": "t"}]) == "t"
    assert text.chat(HELLO, chat_template="rag", documents=[{"text": "x"}]) == "rx"
    assert text.chat(HELLO, chat_template="{{ messages[0].role }}") == "user"
    files = {"tokenizer_config.json": config, "chat_templates/rag.jinja": b"f"}
    assert Text(files).chat(HELLO, chat_template="rag") == "f"
    with pytest.raises(RequestError, match="no chat template"):
        Text(files).chat(HELLO)  # files go before the settings, all of them
    assert Text({**files, "chat_template.jinja": b"file"}).chat(HELLO) == "file"


def test_a_folder_of_templates(tmp_path: Path) -> None:
    (tmp_path / "chat_templates").mkdir()
    (tmp_path / "chat_templates" / "short.jinja").write_text("s")
    (tmp_path / "chat_template.jinja").write_text("d")
    assert Text(tmp_path).chat(HELLO) == "d"
    assert Text(tmp_path).chat(HELLO, chat_template="short") == "s"


@pytest.mark.parametrize(
    ("template", "options", "wanted"),
    [
        ("{{ enable_thinking is defined }}", {}, "False"),
        ("{{ not enable_thinking }}", {"enable_thinking": False}, "True"),
        ("{{ add_generation_prompt }}", {}, "True"),
        ("{{ add_generation_prompt }}", {"add_generation_prompt": False}, "False"),
        ("{{ eos_token }}{{ image_token }}", {"eos_token": "given"}, "given<i>"),
        ("{{ tools }}{{ documents }}", {}, "NoneNone"),
        ("{{ x }}", {"x": (1, [2.5, None])}, "(1, [2.5, None])"),
        ("{{ x }}", {"x": object()}, "<object>"),
        ("{% generation %}{% set a = 1 %}b{% endgeneration %}{{ a is defined }}", {}, "bFalse"),
        (
            "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            {},
            "01",
        ),
        ("{% if true %}\n  a\n  {% endif %}\nb", {}, "  a\nb"),
        ("{% set n = namespace(a=1) %}{% set n.a = 2 %}{{ n.a }}{{ dict(b=1) }}", {}, "2{'b': 1}"),
        ("{{ strftime_now('%Y') | length }}", {}, "4"),
        ("{{ {'z': '<é>', 'a': 1} | tojson }}", {}, '{"z": "<é>", "a": 1}'),
        ("{{ messages[0].reasoning_content }}{{ messages[0].thinking }}", {}, "tt"),
        ("{{ 'content' in messages[0] }}", {}, "False"),
    ],
)
def test_what_a_template_sees(template: str, options: dict[str, Any], wanted: str) -> None:
    messages = [{"role": "user", "content": None, "reasoning": "t"}]
    settings = {"eos_token": {"content": "</s>"}, "image_token": "<i>", "bos_token": None}
    assert text_of(template, **settings).chat(messages, **options) == wanted


def test_going_on_with_the_final_message() -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    messages = [*HELLO, {"role": "assistant", "content": "It is "}]
    asked: dict[str, Any] = {"continue_final_message": True}
    assert text_of(template).chat(messages, **asked) == "<user>hi</><assistant>It is "
    trimmed = template.replace("m.content", "m.content | trim")
    assert text_of(trimmed).chat(messages, **asked) == "<user>hi</><assistant>It is"
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}]
    inner = "{% for m in messages %}{{ m.content[0].text }}!{% endfor %}"
    assert text_of(inner).chat(parts, **asked) == "a"
    with pytest.raises(RequestError, match="exclude"):
        text_of(template).chat(messages, **asked, add_generation_prompt=True)
    with pytest.raises(RequestError, match="leaves the final message out"):
        text_of("content").chat(messages, **asked)
    with pytest.raises(RequestError, match="does not read 'other'"):
        text_of(template).chat([{"other": "a"}], continue_final_message="other")


HOSTILE = {
    "{% break %}": ArtifactError,
    "{% continue %}": ArtifactError,
    "{% for %}": ArtifactError,
    "{{ 1 | no_such_filter }}": ArtifactError,
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}": ArtifactError,
    "{{ 'a' * 10**10 }}": RequestError,
    "{{ [1] | batch(10**11, 1) | list }}": RequestError,
    "{{ 'a' | center(10**11) }}{{ 'a'.ljust(10**11) }}": RequestError,
    "{{ '%99999999999d' % 1 }}": RequestError,
    "{{ '{:>99999999999}'.format(1) }}": RequestError,
    "{{ messages | tojson(indent=10**10) }}": RequestError,
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": RequestError,
    "{% for m in messages recursive %}{{ loop([m]) }}{% endfor %}": RequestError,
    "{{ range(10**10) }}": RequestError,
    "{{ ('a' * 100000).replace('a', 'b' * 100000) }}": RequestError,
    "{% include 'x' %}": RequestError,
    "{{ messages.__class__.__mro__ }}": RequestError,
    "{{ namespace(__class__=1) }}": RequestError,
    "{{ raise_exception(messages) }}": RequestError,
    "{{ dict.__self__ }}{{ dict.mro() }}": RequestError,
    "{{ undefined.member }}": RequestError,
    "{{ 'x' * (17 * 1024 * 1024) }}": RequestError,
}


@pytest.mark.parametrize("template", HOSTILE)
def test_a_hostile_template_is_an_error_with_a_code(template: str) -> None:
    with pytest.raises(GlmcError) as raised:
        text_of(template).chat(HELLO)
    assert type(raised.value) is HOSTILE[template]
    assert text_of("fine").chat(HELLO) == "fine"


ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
    "{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",
    "{{ 9 ** (10 ** 9) }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxxxx{% endfor %}{% endfor %}",
]


@pytest.mark.parametrize("template", ENDLESS)
def test_a_template_without_end_is_ended(template: str) -> None:
    with pytest.raises(RequestError, match=r"takes too (long|much memory)"):
        text_of(template).chat(HELLO)
    assert text_of("fine").chat(HELLO) == "fine"


def test_a_process_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    text_of("start").chat(HELLO)
    monkeypatch.setattr(rendering, "_WALL_SECONDS", 0.1)
    with pytest.raises(RequestError, match="was stopped"):
        text_of(ENDLESS[0]).chat(HELLO)


@pytest.mark.parametrize("messages", ["text", {"role": "user"}, [3], [["a"]], None, b"x"], ids=repr)
def test_what_is_no_chat(messages: Any) -> None:
    with pytest.raises(RequestError):
        text_of("x").chat(messages)


def test_a_chat_that_holds_itself_or_has_no_variable_of_that_name() -> None:
    message: dict[str, Any] = {"role": "user"}
    message["content"] = [message]
    with pytest.raises(RequestError, match="holds itself"):
        text_of("x").chat([message])
    with pytest.raises(RequestError, match="no such option"):
        text_of("x").chat(HELLO, tokenize=True)
    with pytest.raises(RequestError, match="neither a JSON schema nor a function"):
        text_of("x").chat(HELLO, tools=["weather"])


def test_threads_take_turns_and_a_fork_starts_its_own() -> None:
    text = text_of("{{ messages[0].content }}")
    answers: list[str] = []

    def ask(number: int) -> None:
        for turn in range(20):
            content = f"{number}.{turn} " * 2000
            if text.chat([{"role": "user", "content": content}]) == content:
                answers.append(content)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 80
    child = os.fork()
    if child == 0:
        try:
            right = text.chat(HELLO) == "hi"
        finally:
            os._exit(0 if right else 1)
    assert text.chat([{"role": "user", "content": "parent"}]) == "parent"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_chat_costs_little_once_the_process_runs() -> None:
    text = text_of("{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}")
    chat = HELLO * 20
    text.chat(chat)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        text.chat(chat)
        times.append(time.perf_counter() - started)
    assert min(times) < 5e-3
