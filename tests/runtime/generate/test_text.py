"""Text: whole characters only, and chat templates from either file."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from glmc_runtime.errors import ArtifactError, MissingPackageError, RequestError
from glmc_runtime.generate.bad_words import spellings
from glmc_runtime.generate.text import Text

tokenizers = pytest.importorskip("tokenizers")

SAMPLE = "héllo wörld — 你好世界 🙂🙃 👩‍👩‍👧 end"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A tokenizer of 256 byte tokens and two special ones: every emoji is four tokens."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|user|>", "<|endoftext|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_streamed_text_is_the_text_and_never_splits_a_character(directory: Path) -> None:
    text = Text(directory)
    ids = text.encode(SAMPLE)
    assert len(ids) > len(SAMPLE)
    stream = text.stream()
    pieces = [stream.feed(token) for token in ids]
    assert "".join(pieces) + stream.finish() == SAMPLE
    assert "\ufffd" not in "".join(pieces)
    assert "" in pieces  # inside a character nothing is given out


def test_a_cut_off_character_is_given_out_at_the_end(directory: Path) -> None:
    text = Text(directory)
    stream = text.stream()
    ids = text.encode("a🙂")[:-1]
    assert [stream.feed(token) for token in ids] == ["a", "", "", ""]
    assert stream.finish() == "\ufffd"


def test_special_tokens_leave_no_text(directory: Path) -> None:
    text = Text(directory)
    stream = text.stream()
    user = text.encode("<|user|>")
    assert len(user) == 1
    assert [stream.feed(token) for token in [*text.encode("a"), *user, *text.encode("b")]] == [
        "a",
        "",
        "b",
    ]
    assert stream.finish() == ""


TEMPLATE = (
    "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ eos_token }}{% endif %}"
)


@pytest.mark.parametrize("form", ["string", "named", "file"])
def test_chat_templates(directory: Path, form: str) -> None:
    pytest.importorskip("jinja2")
    settings: dict[str, object] = {"eos_token": {"content": "<|endoftext|>"}}
    if form == "string":
        settings["chat_template"] = TEMPLATE
    elif form == "named":
        settings["chat_template"] = [
            {"name": "tool_use", "template": "no"},
            {"name": "default", "template": TEMPLATE},
        ]
    else:
        (directory / "chat_template.jinja").write_text(TEMPLATE)
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    text = Text(directory)
    messages = [{"role": "user", "content": "hi"}]
    assert text.chat(messages) == "<|user|>hi<|endoftext|>"
    assert len(text.encode_chat(messages)) == 4


def test_a_template_of_no_text_is_an_artifact_error(directory: Path) -> None:
    (directory / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match=r"chat_template\.jinja can't be read"):
        Text(directory).chat([{"role": "user", "content": "hi"}])


def test_a_template_may_refuse_and_can_not_reach_python(directory: Path) -> None:
    pytest.importorskip("jinja2")
    path = directory / "chat_template.jinja"
    for template, reason in (
        ("{{ raise_exception('no system') }}", "no system"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ):
        path.write_text(template)
        with pytest.raises(RequestError, match=reason):
            Text(directory).chat([])


@pytest.mark.parametrize(
    "template",
    ["{{ 1 + 'a' }}", "{{ 1 // 0 }}", "{% for i in range(1000000) %}{% endfor %}"],
)
def test_a_template_that_fails_is_an_error_of_the_request(directory: Path, template: str) -> None:
    pytest.importorskip("jinja2")
    (directory / "chat_template.jinja").write_text(template)
    with pytest.raises(RequestError, match="chat template"):
        Text(directory).chat([])


def test_a_template_sees_what_transformers_shows_it(directory: Path) -> None:
    pytest.importorskip("jinja2")
    (directory / "chat_template.jinja").write_text(
        "{% if tools is not none or documents is not none %}tools{% endif %}"
        "{{ {'b': 'é', 'a': 1} | tojson(separators=(',', ':'), sort_keys=true) }}"
    )
    assert Text(directory).chat([]) == '{"a":1,"b":"é"}'


def test_settings_of_another_kind(directory: Path) -> None:
    pytest.importorskip("jinja2")
    config = directory / "tokenizer_config.json"
    config.write_text('{"eos_token": {"x": 1}, "chat_template": "a{{ eos_token }}b"}')
    assert Text(directory).chat([]) == "ab"
    config.write_text('{"chat_template": [3, {"name": "default"}]}')
    with pytest.raises(RequestError, match="no chat template"):
        Text(directory).chat([])
    config.write_text("[]")
    with pytest.raises(ArtifactError, match="no JSON object"):
        Text(directory).chat([])


def test_text_that_is_no_unicode(directory: Path) -> None:
    with pytest.raises(RequestError, match="no valid Unicode"):
        Text(directory).encode("a\udcff")


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Text(tmp_path)
    assert not text.available
    with pytest.raises(RequestError, match="no tokenizer"):
        text.encode("a")
    with pytest.raises(RequestError, match="no chat template"):
        text.chat([])
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ArtifactError, match="not valid JSON"):
        text.chat([])
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="tokenizers"):
        text.encode("a")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    with pytest.raises(MissingPackageError, match="jinja2"):
        text.chat([])


def test_a_damaged_tokenizer_is_an_artifact_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        Text(tmp_path).encode("a")


def _refuse_long_words(data: Any) -> None:
    data["pre_tokenizer"] = {"type": "FixedLength", "length": 0}


def _name_no_token(data: Any) -> None:
    one = [{"Sequence": {"id": "B", "type_id": 0}}]
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": one,
        "pair": [],
        "special_tokens": {},
    }


def _have_no_unknown_token(data: Any) -> None:
    data["model"] = {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"a": 0}}


@pytest.mark.parametrize("damage", [_refuse_long_words, _name_no_token, _have_no_unknown_token])
def test_a_tokenizer_that_fails_on_a_text_is_an_artifact_error(
    directory: Path, damage: Callable[[Any], None]
) -> None:
    path = directory / "tokenizer.json"
    data = json.loads(path.read_text())
    damage(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=r"tokenizer\.json can't encode this text"):
        Text(directory).encode("b c")


def test_a_tokenizer_that_fails_on_tokens_is_an_artifact_error(directory: Path) -> None:
    path = directory / "tokenizer.json"
    data = json.loads(path.read_text())
    data["decoder"] = {"type": "Strip", "content": "a", "start": 5, "stop": 5}
    path.write_text(json.dumps(data))
    text = Text(directory)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json can't decode these tokens"):
        text.stream().feed(text.encode("a")[0])


def test_what_no_tokenizer_takes_is_an_error_of_the_request(directory: Path) -> None:
    text = Text(directory)
    for other in (5, b"bytes", None):
        with pytest.raises(RequestError, match="is no text"):
            text.encode(other)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="can't decode"):
        text.decode([1 << 70])
    with pytest.raises(RequestError, match="no valid Unicode"):
        spellings(partial(text.encode, add_special_tokens=False), "\ud800")


def test_a_prompt_is_neither_cut_nor_filled(directory: Path) -> None:
    text = Text(directory)
    whole = text.encode(SAMPLE)
    made = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    made.enable_truncation(4)
    made.enable_padding(length=300)
    made.save(str(directory / "tokenizer.json"))
    assert Text(directory).encode(SAMPLE) == whole
    files = {"tokenizer.json": (directory / "tokenizer.json").read_bytes()}
    assert Text(files).encode(SAMPLE) == whole  # bytes that were read before serve as well


def test_special_tokens_are_split_where_the_settings_say_so(directory: Path) -> None:
    assert len(Text(directory).encode("<|user|>")) == 1
    (directory / "tokenizer_config.json").write_text('{"split_special_tokens": true}')
    assert len(Text(directory).encode("<|user|>")) > 1
