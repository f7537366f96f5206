"""Text from elsewhere as a terminal may show it.

Names in an artifact or a checkpoint are chosen by whoever made it. A terminal obeys what some
characters say: they move the cursor, set its title, hide text or turn its direction around. What
``str.isprintable`` does not take for visible is written as Python writes it in a string: ``\\x1b``,
``\\u202e``. All that a command prints of names, messages and paths goes through here.
"""

from __future__ import annotations

import json
import re
from typing import Any

# Of generated text only what moves a terminal or turns text around: joiners make up characters.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, keep: str = "") -> str:
    """The text on one line, with every character visible; those in ``keep`` stay as they are."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in keep else _escape(letter) for letter in text
    )


def printable_lines(text: str) -> str:
    """The same for a text of several lines."""
    return printable(text, keep="\n")


def terminal_text(text: str) -> str:
    """What a model says, for a terminal: as it is but for characters that a terminal obeys."""
    return _COMMANDS.sub(lambda match: _escape(match[0]), text)


def json_text(data: Any) -> str:
    """JSON on one line, readable in every script; what is not visible is an escape of JSON's."""
    text = json.dumps(data, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
