"""Weights that stay mapped are watched: a change on disk is an error before the next step."""

from __future__ import annotations

import hashlib
import os
import weakref
from datetime import datetime, timezone
from pathlib import Path

from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.artifact_files import FileState, unreadable

_PIECE = 1 << 22


class WeightWatch:
    """The files of weights that stay mapped, and whether they are still what was mapped.

    It looks at the files themselves, by descriptors of its own, and not at their names: one that
    was replaced by a rename, or removed, stays mapped as it was.
    """

    def __init__(self) -> None:
        self._states: dict[int, FileState] = {}
        self._names: dict[int, str] = {}
        self._hashes: dict[int, str | None] = {}

    def add(self, name: str, descriptor: int, state: FileState, sha256: str | None = None) -> None:
        """Watch a file from now on; ``sha256`` is what its bytes were found to have, if known."""
        own = os.dup(descriptor)
        weakref.finalize(self, os.close, own)
        self._states[own], self._names[own], self._hashes[own] = state, name, sha256

    def check(self) -> None:
        """Raise ArtifactError when a file has changed; takes a few microseconds for each, and a
        hash of one that got another mode, owner or name."""
        for descriptor, state in self._states.items():
            try:
                status = os.fstat(descriptor)
            except OSError as error:
                raise unreadable(Path(self._names[descriptor]), error) from error
            if status.st_ctime_ns == state.changed and status.st_size == state.size:
                continue
            now = FileState.of(status)
            if not (state.may_hold(now) and self._has_its_bytes(descriptor)):
                raise ArtifactError(
                    "the weights changed on disk while they were in use",
                    place=self._names[descriptor],
                    expected=f"{state.size} bytes, last written {_time(state.modified)}",
                    found=f"{now.size} bytes, last written {_time(now.modified)}",
                    remedy="load the artifact again; replace one that is in use by a rename, as "
                    "'glmc compile --force' does, and never write into it",
                )
            self._states[descriptor] = now

    def _has_its_bytes(self, descriptor: int) -> bool:
        """Whether the hash is the one that was found; yes where none was asked for."""
        known = self._hashes[descriptor]
        if known is None:
            return True
        digest, place = hashlib.sha256(), 0
        try:
            while piece := os.pread(descriptor, _PIECE, place):
                digest.update(piece)
                place += len(piece)
        except OSError as error:
            raise unreadable(Path(self._names[descriptor]), error) from error
        return digest.hexdigest() == known


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, timezone.utc).isoformat(" ")
