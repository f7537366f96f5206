"""Text in and out: encoding, decoding as tokens arrive, chat templates. All packages are lazy."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from glmc_runtime.errors import ArtifactError, MissingPackageError, RequestError

# What the code of a template can raise beside jinja2's own errors.
_TEMPLATE_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
# What a tokenizer writes for bytes that are not (yet) a character.
_REPLACEMENT = "\ufffd"


class Text:
    """The tokenizer directory of an artifact; it may be absent, then only token ids work."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tokenizer: Any = None

    @property
    def available(self) -> bool:
        """Whether the artifact has a tokenizer and the package to read it is installed."""
        has_file = (self._directory / "tokenizer.json").is_file()
        return has_file and importlib.util.find_spec("tokenizers") is not None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; raises :class:`RequestError` or :class:`MissingPackageError`."""
        if self._tokenizer is None:
            path = self._directory / "tokenizer.json"
            if not path.is_file():
                raise RequestError(
                    "the artifact has no tokenizer, so it can't take text",
                    expected=f"tokenizer/{path.name}",
                    remedy="pass token ids, or compile again from a checkpoint with a tokenizer",
                )
            module = _require("tokenizers", "text prompts")
            try:
                self._tokenizer = module.Tokenizer.from_file(str(path))
            except Exception as error:
                raise ArtifactError(f"{path.name} can't be read: {error}") from error
        return self._tokenizer

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, special tokens as the tokenizer adds them."""
        return self._encode(text, True)

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a chat (``role`` and ``content`` each) that asks for an answer.

        The template brings the special tokens itself.
        """
        return self._encode(self.chat(messages), False)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError("the text is no valid Unicode", found=f"{error}") from error
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens, special ones left out."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def stream(self) -> TextStream:
        """A decoder for one request; without a tokenizer it gives empty texts."""
        return TextStream(self if self.available else None)

    def chat(self, messages: list[dict[str, str]]) -> str:
        """Render the chat template; raises :class:`RequestError` or MissingPackageError."""
        settings = self._settings()
        template = self._template(settings)
        _require("jinja2", "chat templates")
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = refuse
        environment.filters["tojson"] = _to_json
        special = {
            name: value.get("content", "") if isinstance(value, dict) else value
            for name, value in settings.items()
            if name.endswith("_token") and isinstance(value, (str, dict))
        }
        try:
            rendered: str = environment.from_string(template).render(
                messages=messages,
                add_generation_prompt=True,
                tools=None,  # templates ask whether they are None
                documents=None,
                **special,
            )
        except (TemplateError, *_TEMPLATE_ERRORS) as error:
            raise RequestError(f"the chat template refuses these messages: {error}") from error
        return rendered

    def _settings(self) -> dict[str, Any]:
        path = self._directory / "tokenizer_config.json"
        if not path.is_file():
            return {}
        try:
            settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{path.name} is not valid JSON: {error}") from error
        if not isinstance(settings, dict):
            raise ArtifactError(f"{path.name} is no JSON object", place=str(path))
        return settings

    def _template(self, settings: dict[str, Any]) -> str:
        file = self._directory / "chat_template.jinja"
        if file.is_file():
            try:
                return file.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise ArtifactError(f"{file.name} can't be read: {error}") from error
        template = settings.get("chat_template")
        if isinstance(template, list):  # several named ones
            named = [item for item in template if isinstance(item, dict)]
            template = next(
                (item.get("template") for item in named if item.get("name") == "default"), None
            )
        if not isinstance(template, str):
            raise RequestError(
                "the artifact has no chat template",
                expected="chat_template.jinja, or chat_template in tokenizer_config.json",
                remedy="pass the prompt without --chat",
            )
        return template


class TextStream:
    """Turns tokens into text as they come; holds back what is not a whole character yet.

    Only a short tail is decoded again: from the token before the last text that was given out,
    because a tokenizer may treat the first token of a text in its own way.
    """

    def __init__(self, text: Text | None) -> None:
        self._text = text
        self._tokens: list[int] = []
        self._start = 0
        self._given = 0

    def feed(self, token: int) -> str:
        """The text that became complete with ``token``; may be empty."""
        if self._text is None:
            return ""
        self._tokens.append(token)
        new = self._pending()
        return "" if not new or new.endswith(_REPLACEMENT) else self._give(new)

    def finish(self) -> str:
        """What was held back, as it is."""
        return "" if self._text is None else self._give(self._pending())

    def _pending(self) -> str:
        if self._text is None:
            return ""
        before = self._text.decode(self._tokens[self._start : self._given])
        return self._text.decode(self._tokens[self._start :])[len(before) :]

    def _give(self, new: str) -> str:
        self._start, self._given = self._given, len(self._tokens)
        return new


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter as transformers has it: no escapes for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _require(package: str, purpose: str) -> Any:
    if importlib.util.find_spec(package) is None:
        raise MissingPackageError(
            f"{purpose} need the package '{package}'",
            remedy="pip install 'glmc-runtime[text]'",
        )
    return importlib.import_module(package)
