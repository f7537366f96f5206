"""Commands and their options, as data, of which ``glmc-runtime`` and ``glmc`` make their parsers.

Nothing that computes is imported before a command was parsed: a command names its function as
``module:function``, which is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Literal

Kind = type[str] | type[int] | type[float] | type[bool]
Action = Callable[[SimpleNamespace], int]

OUTPUT = "Output"
LOADING = "Loading"


@dataclass(frozen=True)
class Option:
    """An option; without a default it is None where it is left out.

    ``many`` may be repeated and is a list. ``negatable`` adds the ``--no-`` form to a flag, and
    ``counted`` is how often a flag was given. ``group`` is the heading in the help.
    """

    flag: str
    help: str
    kind: Kind = str
    short: str = ""
    default: str | int | float | bool | None = None
    many: bool = False
    negatable: bool = False
    counted: bool = False
    metavar: str = ""
    group: str = "Options"

    @property
    def name(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def negative(self) -> str:
        return f"--no-{self.flag.removeprefix('--')}"


@dataclass(frozen=True)
class Command:
    """A command on an artifact, which is its one argument; ``action`` gets all options by name and
    returns the exit status. An artifact that is ``optional`` is None where it is left out; with
    ``none`` there is no such argument."""

    name: str
    summary: str
    action: str
    options: tuple[Option, ...]
    artifact: Literal["needed", "optional", "none"] = "needed"

    def load(self) -> Action:
        module, _, function = self.action.partition(":")
        action: Action = getattr(import_module(module), function)
        return action


ARTIFACT_HELP = "Directory written by glmc compile."

# Options of every command, before its name or after it.
COMMON = (
    Option(
        "--verbose", "Log what is done; twice for details. GLMC_LOGS=help lists the parts.", int,
        short="-v", counted=True, default=0, group="Common",
    ),
    Option(
        "--quiet", "No progress and no notes on stderr, errors only; results on stdout stay.", bool,
        short="-q", default=False, group="Common",
    ),
    Option("--debug", "Show the traceback of an error.", bool, default=False, group="Common"),
)  # fmt: skip
