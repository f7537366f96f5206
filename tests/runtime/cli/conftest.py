"""A toy that reads and writes words, and a stdin with a script."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtime.toy import write_toy

# Between w9 and w8 what is said to the model; what it says stands as it is.
TEMPLATE = """\
{% for message in messages %}
{% if message.role == "assistant" %}{{ message.content }}
{% else %}w9 {{ message.content }} w8
{% endif %}{% endfor %}"""


@pytest.fixture(scope="session")
def worded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token 7 is the word ``w7``."""
    tokenizers = pytest.importorskip("tokenizers")
    root = tmp_path_factory.mktemp("worded") / "toy"
    (root / "tokenizer").mkdir(parents=True)
    words = {f"w{number}": number for number in range(64)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(root / "tokenizer" / "tokenizer.json"))
    (root / "tokenizer" / "chat_template.jinja").write_text(TEMPLATE)
    return write_toy(root)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts lines into stdin; ``terminal`` says that somebody types them."""

    def put(*lines: str, terminal: bool = False) -> None:
        stdin = io.StringIO("".join(f"{line}\n" for line in lines))
        monkeypatch.setattr(stdin, "isatty", lambda: terminal)
        monkeypatch.setattr(sys, "stdin", stdin)

    return put
