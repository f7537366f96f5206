"""Errors of ranks, as data on their way to the controller, and the one that it raises."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from glmc_runtime.errors import GlmcError, Lines, RankError

_FIELDS = ("message", "place", "expected", "found", "remedy")
_LAST_LINES = 12


@dataclass(frozen=True)
class Report:
    """What ended a rank. ``own`` says that it is no mere consequence of another rank's end, such as
    a collective whose peer is gone."""

    rank: int
    own: bool
    error: GlmcError


def error_to_json(error: BaseException) -> dict[str, object]:
    """The error of a rank as JSON data, for :func:`report_of`."""
    if not isinstance(error, GlmcError):
        text = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        return {"code": RankError.code, "message": text, "own": False}
    cause = error.__cause__
    own = cause is None or isinstance(cause, (GlmcError, OSError))
    fields: dict[str, object] = {name: getattr(error, name) for name in _FIELDS}
    lines = [name for name in _FIELDS if isinstance(getattr(error, name), Lines)]
    return {"code": error.code, "own": own, "lines": lines, **fields}


def report_of(rank: int, size: int, data: dict[str, object]) -> Report:
    """The error of a rank under its own class, with the rank in its place."""
    lines = data.get("lines")
    named = lines if isinstance(lines, list) else []
    fields = {name: (Lines if name in named else str)(str(data.get(name, ""))) for name in _FIELDS}
    place, inside = f"rank {rank} of {size}", fields["place"]
    kind = next((kind for kind in _classes() if kind.code == data.get("code")), RankError)
    if not inside:
        fields["place"] = place
    elif kind is not RankError:  # which speaks of ranks itself
        fields["place"] = f"{place}: {inside}"
    return Report(rank, bool(data.get("own")), kind(fields.pop("message"), **fields))


def _classes(of: type[GlmcError] = GlmcError) -> Iterator[type[GlmcError]]:
    for kind in of.__subclasses__():
        yield kind
        yield from _classes(kind)


def again(error: GlmcError) -> GlmcError:
    """A new error like one that was raised before."""
    return type(error)(error.message, **{name: getattr(error, name) for name in _FIELDS[1:]})


def ended(rank: int, size: int, process: int, status: int, lines: Sequence[str]) -> Report:
    """A rank whose process is gone; a negative ``status`` is that of a signal."""
    remedy = ""
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = "unknown"
        how = f"was killed by signal {-status} ({name})"
        if -status == signal.SIGKILL:
            remedy = "load again; a system out of memory kills processes too: see its log (dmesg)"
    else:
        how = f"ended with status {status}"
    error = RankError(
        f"rank {rank} {how}",
        place=_where(rank, size, process),
        found=_lines(lines),
        remedy=remedy,
    )
    return Report(rank, True, error)


def silent(
    rank: int, size: int, process: int, seconds: float, state: str, lines: Sequence[str]
) -> Report:
    """A rank whose watcher has not been heard; ``state`` is what the system says of its process."""
    error = RankError(
        f"rank {rank} hangs: its watcher was not heard for {seconds:.0f} s",
        place=_where(rank, size, process),
        expected="a heartbeat each second",
        found=Lines.of([f"a process that {state}", *lines[-_LAST_LINES:]]),
        remedy="load again; a process that was stopped (SIGSTOP, a debugger) can't go on",
    )
    return Report(rank, True, error)


def _where(rank: int, size: int, process: int) -> str:
    return f"rank {rank} of {size}, process {process}"


def _lines(lines: Sequence[str]) -> str:
    return Lines.of(lines[-_LAST_LINES:]) if lines else "it wrote nothing"


def json_bytes(data: object) -> bytes:
    return json.dumps(data).encode()
