"""Tables and lines of a terminal, from texts that are taken as they are."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from glmc_runtime.printable import printable


class PlainConsole(Console):
    """A console for names from elsewhere: no markup, no emoji codes, no control characters.

    All texts of tables, titles and lines go through ``render_str``, each as one line.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "markup": False, "emoji": False})

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)
