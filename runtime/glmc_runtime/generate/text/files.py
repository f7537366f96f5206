"""The tokenizer files of an artifact, by name: from a folder, or from bytes read before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from glmc_runtime.errors import ArtifactError

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
TEMPLATES = "chat_templates"  # a folder of named ones


class Folder(Mapping[str, bytes]):
    """The files of a folder and of its folder of templates, read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, name: str) -> bytes:
        path = self._path / name
        if not path.is_file():
            raise KeyError(name)
        try:
            return path.read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"{name} can't be read: {error.strerror or error}", place=str(path)
            ) from error

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (self._path / name).is_file()

    def __iter__(self) -> Iterator[str]:
        paths = (*self._path.glob("*"), *(self._path / TEMPLATES).glob("*.jinja"))
        return (path.relative_to(self._path).as_posix() for path in paths if path.is_file())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def text_of(files: Mapping[str, bytes], name: str) -> str:
    """A file as text; raises :class:`ArtifactError` for bytes that are none."""
    try:
        return files[name].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{name} can't be read: {error}") from error


def settings_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    """``tokenizer_config.json``, empty where there is none; raises :class:`ArtifactError`."""
    if SETTINGS not in files:
        return {}
    try:
        settings: dict[str, Any] = json.loads(text_of(files, SETTINGS))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{SETTINGS} is not valid JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ArtifactError(f"{SETTINGS} is no JSON object")
    return settings


def special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """The named special tokens as templates see them: ``eos_token`` and the like."""
    extra = settings.get("extra_special_tokens")
    named = extra if isinstance(extra, dict) else {}
    tokens = {}
    for name, value in {**named, **settings}.items():
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str) and (name.endswith("_token") or name in named):
            tokens[name] = content
    return tokens


def templates_of(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name: files where there are any, else those of the settings."""
    templates = {"default": text_of(files, TEMPLATE)} if TEMPLATE in files else {}
    for name in sorted(files):
        folder, _, last = name.partition("/")
        if folder == TEMPLATES and last.endswith(".jinja"):
            templates[last.removesuffix(".jinja")] = text_of(files, name)
    if templates:
        return templates
    setting = settings.get("chat_template")
    if isinstance(setting, list):
        items = [item for item in setting if isinstance(item, dict)]
        setting = {str(item.get("name")): item.get("template") for item in items}
    named = setting if isinstance(setting, dict) else {"default": setting}
    return {name: text for name, text in named.items() if isinstance(text, str)}
