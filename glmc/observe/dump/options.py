"""Options of a dump."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from glmc.errors import UsageError
from glmc.observe.dump.stages import ALL, known_names
from glmc.pipeline.names import SHARD
from glmc_runtime.command.nearest import did_you_mean
from glmc_runtime.errors import MissingPackageError

_DEALS = "add --tensor-parallel 2, say: the step deals a model to ranks"


@dataclass(frozen=True)
class DumpOptions:
    """``before`` and ``after`` name passes; with neither, and without ``changed``, all are written.

    ``changed`` leaves out passes that changed nothing. ``full`` writes every layer and not one of
    each kind. ``picture`` is the layer that is drawn. Without ``directory`` only a failure is
    written, and only with ``on_failure``; it goes to ``failure_directory``. ``passes`` are
    the fusing passes that run, in order: steps are numbered by them.
    """

    directory: Path | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    changed: bool = False
    on_failure: bool = False
    failure_directory: Path = Path("glmc-failure")
    full: bool = False
    onnx: bool = False
    picture: int | None = None
    passes: tuple[str, ...] = ALL

    def __post_init__(self) -> None:
        known = known_names(self.passes)
        for flag, names in (("--dump-before", self.before), ("--dump-after", self.after)):
            _require_known(flag, names, known)
        used = {
            "--dump-before": self.before,
            "--dump-after": self.after,
            "--dump-changed": self.changed,
            "--dump-full": self.full,
            "--dump-onnx": self.onnx,
            "--dump-picture": self.picture is not None,
        }
        flags = [flag for flag, value in used.items() if value]
        if flags and self.directory is None and not self.on_failure:
            raise UsageError(
                f"{flags[0]} needs a folder to write to",
                expected="--dump DIR",
                remedy="add --dump DIR",
            )
        if self.picture is not None and self.picture < 0:
            raise UsageError(
                "there is no such layer", found=str(self.picture), remedy="--dump-picture 0"
            )
        if self.onnx and importlib.util.find_spec("onnx") is None:
            raise MissingPackageError(
                "--dump-onnx needs the package onnx",
                expected="onnx 1.16 or newer",
                remedy="pip install onnx, or drop --dump-onnx",
            )

    @property
    def root(self) -> Path | None:
        """The folder that is written to, be it only on failure."""
        return self.directory or (self.failure_directory if self.on_failure else None)

    @property
    def all(self) -> bool:
        """Whether no pass was named."""
        return not (self.before or self.after)


def _require_known(flag: str, names: tuple[str, ...], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(
                f"{flag}: there is no pass '{name}'",
                expected=", ".join(known),
                found=name,
                remedy=_DEALS
                if name == SHARD
                else did_you_mean(name, known) or "name a pass as 'glmc inspect' lists it",
            )
