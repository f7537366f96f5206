"""Text in and out: encoding, decoding as tokens arrive, chat templates. All packages are lazy."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from glmc_runtime import arguments
from glmc_runtime.errors import RequestError
from glmc_runtime.generate.text.files import (
    TOKENIZER,
    Folder,
    settings_of,
    special_tokens,
    templates_of,
)
from glmc_runtime.generate.text.messages import continuation, plain_messages, plain_variables
from glmc_runtime.generate.text.packages import answered, require
from glmc_runtime.generate.text.rendering import render
from glmc_runtime.generate.text.stream import TextStream, cleaned

__all__ = ["Text", "TextStream"]

# Arguments of transformers' apply_chat_template that are no variables of a template.
_NOT_VARIABLES = frozenset(
    "conversation tokenize padding truncation max_length return_tensors return_dict "
    "tokenizer_kwargs return_assistant_tokens_mask sanitize_control_tokens".split()
)


class Text:
    """The tokenizer files of an artifact; they may be absent, then only token ids work.

    ``files`` is their folder, or their contents by name, such as ``tokenizer.json``.
    """

    def __init__(self, files: Path | Mapping[str, bytes]) -> None:
        self._files = Folder(files) if isinstance(files, Path) else files

    @property
    def available(self) -> bool:
        """Whether the artifact has a tokenizer and the package to read it is installed."""
        return TOKENIZER in self._files and importlib.util.find_spec("tokenizers") is not None

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer; raises :class:`RequestError` or :class:`MissingPackageError`."""
        self._require_file()
        require("tokenizers", "text prompts")
        module = importlib.import_module("tokenizers")
        made = answered("be read", module.Tokenizer.from_buffer, self._files[TOKENIZER])
        # A prompt reaches the model whole and alone, whatever the file was saved with.
        made.no_truncation()
        made.no_padding()
        made.encode_special_tokens = bool(self._settings.get("split_special_tokens", False))
        return made

    def _require_file(self) -> None:
        if TOKENIZER not in self._files:
            raise RequestError(
                "the artifact has no tokenizer, so it can't take text",
                expected=f"tokenizer/{TOKENIZER}",
                remedy="pass token ids, or compile again from a checkpoint with a tokenizer",
            )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, special tokens as the tokenizer adds them."""
        text = arguments.text("the text", text)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError("the text is no valid Unicode", found=f"{error}") from error
        encoding = answered(
            "encode this text", self.tokenizer.encode, text, add_special_tokens=add_special_tokens
        )
        ids: list[int] = encoding.ids
        return ids

    def encode_chat(self, messages: Sequence[Any], **options: Any) -> list[int]:
        """Token ids of a chat that asks for an answer; ``options`` as in :meth:`chat`.

        The template brings the special tokens itself.
        """
        self._require_file()  # the cause, before a template is looked for
        return self.encode(self.chat(messages, **options), add_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        text = self._decode(tokens)
        return cleaned(text) if self._cleans else text

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = answered(
            "decode these tokens", self.tokenizer.decode, tokens, skip_special_tokens=True
        )
        return text

    def stream(self) -> TextStream:
        """A decoder for one request; without a tokenizer it gives empty texts."""
        if not self.available:
            return TextStream(None)
        return TextStream(self._decode, clean=self._cleans)

    def chat(
        self,
        messages: Sequence[Any],
        *,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool | str = False,
        **variables: Any,
    ) -> str:
        """Render the chat template over messages (``role`` and ``content`` each).

        ``tools`` are JSON schemas or functions with annotations and a docstring. ``variables`` are
        those of the template, such as ``enable_thinking``. ``chat_template`` names one of several
        templates, or is one. The text asks for an answer, unless ``add_generation_prompt`` is False
        or the model is to go on with the final message (``continue_final_message``, or the name
        of its field).

        Raises :class:`RequestError`, :class:`ArtifactError` for a template that can't be read, and
        :class:`MissingPackageError`.
        """
        if surplus := sorted(_NOT_VARIABLES & variables.keys()):
            raise RequestError("a chat has no such option", found=", ".join(surplus))
        if continue_final_message and add_generation_prompt:
            raise RequestError(
                "continue_final_message and add_generation_prompt exclude each other"
            )
        template = self._template(chat_template, tools is not None)
        values = plain_variables(tools, documents, variables)
        shown = plain_messages(messages)
        begun = None
        if continue_final_message:
            begun = continuation(shown, continue_final_message, template)
            shown = begun.messages
        fixed = {
            "messages": shown,
            "add_generation_prompt": not begun and add_generation_prompt is not False,
        }
        rendered = render(template, {**special_tokens(self._settings), **values, **fixed})
        return rendered if begun is None else begun.cut(rendered)

    def _template(self, asked: str | None, tools: bool) -> str:
        named = templates_of(self._files, self._settings)
        if asked is not None:
            return named.get(asked, asked)
        name = "tool_use" if tools and "tool_use" in named else "default"
        if name not in named:
            raise RequestError(
                "the artifact has no chat template",
                expected="chat_template.jinja, or chat_template in tokenizer_config.json",
                found=f"templates of other names: {', '.join(named)}" if named else "",
                remedy="name one of them"
                if named
                else "pass one as chat_template (--chat-template), or prompts without a chat",
            )
        return named[name]

    @property
    def _settings(self) -> dict[str, Any]:
        return settings_of(self._files)

    @cached_property
    def _cleans(self) -> bool:
        """Whether decoded text loses blanks before marks; a BPE's own blanks are right."""
        if not self._settings.get("clean_up_tokenization_spaces", False):
            return False
        forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
        bpe = type(self.tokenizer.model).__name__ == "BPE"
        return not bpe or bool(self._settings.get(forced, False))
