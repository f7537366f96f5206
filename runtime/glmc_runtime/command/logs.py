"""Logs of both packages: artifacts by name, ``GLMC_LOGS``, and how a command line shows them.

The loggers of an artifact are ``glmc.NAME`` and ``glmc_runtime.NAME``, which a program routes as
any other. ``GLMC_LOGS`` chooses levels in the manner of ``TORCH_LOGS``: ``passes`` shows what each
pass did, ``+passes`` more of it, ``-passes`` errors only.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from glmc_runtime.command.nearest import did_you_mean
from glmc_runtime.printable import printable_lines

VARIABLE = "GLMC_LOGS"
PACKAGES = ("glmc", "glmc_runtime")
# Those of the compiler are here as well, since one variable serves both packages.
ARTIFACTS: Mapping[str, str] = MappingProxyType(
    {
        "capture": "the traced model: its kinds of layers and nodes",
        "passes": "each pass: matches, nodes, time; +passes: each near miss with its reason",
        "lowering": "each phase: kernel calls, memory; +lowering: each kernel with its count",
        "weights": "weights packed and loaded; +weights: each tensor",
        "verify": "torch.compile with verify: how far off the first call of a graph was",
        "fusions": "torch.compile: the passes that matched, graph by graph",
        "graph_breaks": "torch.compile: where Dynamo ended a graph, and why",
        "recompiles": "torch.compile: code that is compiled again, and the guard that failed",
        "graphs": "device graphs that were captured, or why there are none",
        "device": "where kernels run: a device, the emulator, Triton's interpreter",
        "kernels": "kernels that are compiled on this machine",
        "ranks": "artifacts of several ranks: what each rank prints",
        "chat": "glmc chat: each turn, how much of it was computed before",
    }
)
ALL, HELP = "all", "help"
_LEVELS = {"+": logging.DEBUG, "-": logging.ERROR, "": logging.INFO}


@dataclass(frozen=True)
class Request:
    """What a value of ``GLMC_LOGS`` asks for; ``unknown`` are names that no artifact has."""

    levels: Mapping[str, int]
    unknown: tuple[str, ...] = ()
    help: bool = False


def read_request(text: str) -> Request:
    """``passes,+lowering,-weights`` as levels by artifact; the last word about a name holds."""
    levels: dict[str, int] = {}
    unknown: list[str] = []
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        sign = word[0] if word[0] in "+-" else ""
        name = word.removeprefix(sign)
        if name == ALL:
            levels.update(dict.fromkeys(ARTIFACTS, _LEVELS[sign]))
        elif name in ARTIFACTS:
            levels[name] = _LEVELS[sign]
        elif name != HELP:
            unknown.append(name)
    return Request(levels, tuple(unknown), HELP in words)


def configure(verbose: int = 0, quiet: bool = False) -> None:
    """The logs of a command line, on stderr: warnings, from ``-v`` on what is done, from ``-vv`` on
    all, with ``quiet`` only errors. ``GLMC_LOGS`` goes before these, artifact by artifact.

    That the vendor is emulated is said to the quiet as well. May be called again.
    """
    every = logging.INFO if verbose == 1 else logging.DEBUG if verbose else logging.WARNING
    levels = dict(read_request(os.environ.get(VARIABLE, "")).levels)
    if quiet:
        every = logging.ERROR
        levels.setdefault("device", logging.WARNING)
    _apply(every, levels)


def configure_library() -> None:
    """The logs of a program that imports the package: what ``GLMC_LOGS`` asks for, on stderr unless
    the program has handlers of its own. Without the variable nothing is touched."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return
    request = read_request(text)
    _apply(logging.NOTSET, request.levels)
    logger = logging.getLogger(PACKAGES[-1])
    for name in request.unknown:
        logger.warning("%s", _unknown(name))
    if request.help:
        logger.warning("%s", help_text())


def help_text() -> str:
    """What ``GLMC_LOGS=help`` shows."""
    width = max(map(len, ARTIFACTS))
    return "\n".join(
        (
            f"{VARIABLE} names artifacts with commas between them: 'passes' logs what is done, "
            "'+passes' more, '-passes' errors only; 'all' names each",
            *(f"  {name:<{width}}  {meaning}" for name, meaning in ARTIFACTS.items()),
        )
    )


def _unknown(name: str) -> str:
    meant = did_you_mean(name, ARTIFACTS) or f"there are {', '.join(ARTIFACTS)}"
    return f"{VARIABLE} names no artifact '{name}': {meant}"


def _apply(every: int, levels: Mapping[str, int]) -> None:
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.setLevel(every)
        if _HANDLER not in logger.handlers:
            logger.addHandler(_HANDLER)
        for name in ARTIFACTS:
            logger.getChild(name).setLevel(levels.get(name, logging.NOTSET))


class _Handler(logging.Handler):
    """Writes to what is stderr at the time; a program with handlers of its own gets its records
    there, and not twice."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.getLogger().handlers:
            return
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except OSError:
            self.handleError(record)


class _Formatter(logging.Formatter):
    """``glmc: a warning`` and ``glmc[passes]: what is done``, of characters that no terminal
    obeys."""

    def format(self, record: logging.LogRecord) -> str:
        package, _, artifact = record.name.partition(".")
        shown = record.levelno < logging.WARNING and artifact
        source = package.replace("_", "-") + (f"[{artifact}]" if shown else "")
        return printable_lines(f"{source}: {super().format(record)}")


_HANDLER = _Handler()
_HANDLER.setFormatter(_Formatter())
