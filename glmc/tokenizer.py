"""The tokenizer of a checkpoint in the form in which the runtime gives AutoTokenizer's ids.

The runtime has the package tokenizers and not transformers, whose ``AutoTokenizer`` does more than
read ``tokenizer.json``: it drops truncation and padding, adds the tokens that other files name,
and chooses a post-processor and a template among several places. So what it made of the files is
written, not the files: they may say the same in many ways, and this is one. It is held against
AutoTokenizer on texts before it is taken. Code that comes with a checkpoint is not run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmc.errors import CheckpointError
from glmc_runtime.errors import GlmcError
from glmc_runtime.generate.text import Text
from glmc_runtime.generate.text.files import SETTINGS, TEMPLATE, TEMPLATES, TOKENIZER

# Copied as it is: how the published model is meant to be sampled.
_COPIED = ("generation_config.json",)
# One of these means that there is a tokenizer.
_SOURCES = (
    TOKENIZER,
    "tokenizer.model",
    "tiktoken.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
)
_LEGACY_TEMPLATE = "chat_template.json"  # where processors look
# Settings that change what a text becomes, beside the special tokens.
_SETTINGS = (
    "clean_up_tokenization_spaces",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
    "split_special_tokens",
)
_TEXTS = (
    "The compiler reads 17 + 25 = 42 layers, doesn't it ? No , it 's not .",
    "  今天天气很好。我们去公园\n\n\tdef f(x):\r\n    return x**2 ",
    "naïve café Ⅳ ﬁne e\u0301 🙂👩\u200d👩\u200d👧 Ünïcödé ΑΒΓ मूल",
    "",
)


@dataclass(frozen=True)
class TokenizerFiles:
    """``files`` by their name below ``tokenizer/``; ``remarks`` say what is not there and why."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def tokenizer_files(directory: Path | None, config: Any = None) -> TokenizerFiles:
    """What the artifact carries of a checkpoint's tokenizer; nothing of a preset's.

    ``config`` is the model's, from which transformers chooses the class. Raises
    :class:`CheckpointError` for a ``tokenizer.json`` or a template that can't be read.
    """
    if directory is None:
        return TokenizerFiles()
    copied = {name: (directory / name).read_bytes() for name in _COPIED if _has(directory, name)}
    if not any(_has(directory, name) for name in _SOURCES):
        text = "the artifact takes token ids and no text: the checkpoint has no tokenizer"
        return TokenizerFiles(copied, (text,))
    try:
        tokenizer = _auto_tokenizer(directory, config)
    except Exception as error:
        if not _has(directory, TOKENIZER):
            return _left_out(copied, f"AutoTokenizer can't read it ({_first_line(error)})")
        raise CheckpointError(
            f"the checkpoint's tokenizer can't be read: {_first_line(error)}",
            place=str(directory),
            remedy="take the tokenizer files that were published with the checkpoint",
        ) from error
    name = type(tokenizer).__name__
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return _left_out(copied, f"{name} is written in Python, and the runtime has tokenizers")
    ids = [tokenizer(text)["input_ids"] for text in _texts(tokenizer)]  # resets truncation, too
    files = {
        **copied,
        TOKENIZER: _backend(tokenizer, directory),
        SETTINGS: _settings(tokenizer, directory),
        **_templates(tokenizer, directory),
    }
    difference = _difference(tokenizer, Text(files), ids)
    if difference:
        return _left_out(copied, f"the runtime would read text unlike {name} ({difference})")
    return TokenizerFiles(files)


def _has(directory: Path, name: str) -> bool:
    return (directory / name).is_file()


def _left_out(files: Mapping[str, bytes], reason: str) -> TokenizerFiles:
    return TokenizerFiles(
        files, (f"the artifact takes token ids only, without the tokenizer: {reason}",)
    )


def _auto_tokenizer(directory: Path, config: Any) -> Any:
    from transformers import AutoTokenizer

    keywords = {} if config is None else {"config": config}
    return AutoTokenizer.from_pretrained(
        directory, trust_remote_code=False, local_files_only=True, **keywords
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


def _texts(tokenizer: Any) -> tuple[str, ...]:
    """Texts of several kinds, and one with special and added tokens in it."""
    tokens = [str(token) for token in tokenizer.added_tokens_decoder.values()][:20]
    return (*_TEXTS, " a ".join(["", *tokens, ""]), "x".join(tokens))


def _backend(tokenizer: Any, directory: Path) -> bytes:
    """``tokenizer.json``, the checkpoint's own where that says the same."""
    made: str = tokenizer.backend_tokenizer.to_str(pretty=True)
    if _has(directory, TOKENIZER):
        own = (directory / TOKENIZER).read_bytes()
        if json.loads(own) == json.loads(made):
            return own
    return f"{made}\n".encode()


def _settings(tokenizer: Any, directory: Path) -> bytes:
    """``tokenizer_config.json`` with every special token by name, and without templates."""
    own, settings = b"", {}
    if _has(directory, SETTINGS):
        own = (directory / SETTINGS).read_bytes()
        settings = json.loads(own)
    written = {name: value for name, value in settings.items() if name != "chat_template"}
    cleans, forced, _ = _SETTINGS
    # transformers before 5 has no setting for a BPE: it cleans whatever the model is.
    unsaid = {forced: getattr(tokenizer, cleans, False)}
    for name in _SETTINGS:
        value = bool(getattr(tokenizer, name, unsaid.get(name, False)))
        if value != bool(written.get(name, False)):
            written[name] = value
    written.update(tokenizer.special_tokens_map)
    return (
        own
        if own and written == settings
        else f"{json.dumps(written, indent=2, ensure_ascii=False)}\n".encode()
    )


def _templates(tokenizer: Any, directory: Path) -> dict[str, bytes]:
    templates = tokenizer.chat_template
    if templates is None and _has(directory, _LEGACY_TEMPLATE):
        templates = _legacy(directory / _LEGACY_TEMPLATE)
    named = (
        templates
        if isinstance(templates, dict)
        else {}
        if templates is None
        else {"default": templates}
    )
    files = {}
    for name, text in named.items():
        if not isinstance(text, str) or not re.fullmatch(r"[\w-][\w.-]*", str(name)):
            raise CheckpointError(
                "a chat template has no text, or a name that can't be a file's",
                place=str(directory),
                expected="letters, digits, '_', '-' and '.'",
                found=repr(name),
            )
        path = TEMPLATE if name == "default" else f"{TEMPLATES}/{name}.jinja"
        files[path] = text.encode("utf-8", "surrogatepass")
    return files


def _legacy(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path.name} can't be read: {_first_line(error)}",
            place=str(path),
            expected='{"chat_template": TEXT}',
        ) from error


def _difference(tokenizer: Any, text: Text, ids: list[list[int]]) -> str:
    """The first text that the runtime reads or writes in another way; '' where there is none."""
    for prompt, wanted in zip(_texts(tokenizer), ids, strict=True):
        try:
            actual = text.encode(prompt)
            back = text.decode(wanted)
        except GlmcError as error:
            return error.message
        if list(wanted) != actual or back != tokenizer.decode(wanted, skip_special_tokens=True):
            return repr(prompt)
    return ""
