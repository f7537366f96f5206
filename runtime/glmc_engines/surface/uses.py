"""Names of an engine that an adapter uses, as data.

Each module of an adapter may declare rows in a tuple called ``SURFACE``. They are read from its
source and never imported, since the module itself may import the engine: every argument is a
literal. What a module imports from its engine is a row already, and needs none here. Rows are for
what an import does not show: methods, parameters, attributes, modules named in a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["any", "module", "class", "function", "method", "attribute"]


@dataclass(frozen=True)
class Use:
    """One name of an engine and what is expected of it.

    ``parameters`` are the names that a call passes, without ``self``; None asks for none. All must
    be accepted, and no other may be required. With ``override`` the engine calls and we define:
    then its parameters must be exactly these. A row that is ``optional`` is one that the adapter
    detects and can do without. Rows that share a word in ``either`` stand for each other: one of
    them is enough.
    """

    name: str
    kind: Kind
    parameters: tuple[str, ...] | None = None
    why: str = ""
    optional: bool = False
    override: bool = False
    either: str = ""
