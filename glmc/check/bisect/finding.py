"""The result of a bisection, in one paragraph and one file."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class BisectResult:
    """``step`` is the pass, phase or stage; ``match`` and ``node`` are ids where there are any.

    ``what`` says in one sentence what is wrong, ``repro`` is the text of ``repro.py``.
    """

    step: str
    what: str
    repro: str
    match: str | None = None
    node: str | None = None
    layer: int | None = None
    source: str = ""
    nodes: int = 0

    def paragraph(self, path: str) -> str:
        """For the terminal; ``path`` is where the reproduction was written."""
        parts = [f"The first step that is wrong is {self.step}."]
        if self.match is not None:
            layer = "" if self.layer is None else f" (layer {self.layer})"
            parts.append(f"Its first wrong match is {self.match}{layer}.")
        parts.append(self.what)
        if self.source:
            parts.append(f"In the model this is {self.source}.")
        if self.nodes:
            parts.append(f"{path} shows it with {self.nodes} nodes; python {path} fails.")
        else:
            parts.append(f"{path} shows it; python {path} fails.")
        return textwrap.fill(" ".join(parts), 100, break_long_words=False, break_on_hyphens=False)


def commented(lines: Iterable[str]) -> str:
    """The head of a reproduction."""
    return "\n".join(f"# {line}".rstrip() for line in lines) + "\n"
