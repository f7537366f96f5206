"""Options of the adapters: environment variables, as an engine's own command line has none."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from glmc_runtime.errors import RequestError


@dataclass(frozen=True)
class Options:
    """``artifact`` is the directory to serve. ``compiler`` is a Python interpreter that has glmc,
    which compiles the engine's checkpoint where no artifact is named. With ``require`` a model
    that can't be served fails the start in place of being left to the engine."""

    artifact: Path | None = None
    compiler: str | None = None
    require: bool = False

    @classmethod
    def from_environment(cls) -> Options:
        """Raises :class:`RequestError` for a switch that is neither 0 nor 1."""
        artifact = os.environ.get("GLMC_ARTIFACT")
        return cls(
            artifact=Path(artifact).expanduser() if artifact else None,
            compiler=os.environ.get("GLMC_COMPILER") or None,
            require=_switch("GLMC_REQUIRE", os.environ.get("GLMC_REQUIRE", "")),
        )


def platform_asked_for() -> str | None:
    """The platform of ours that an engine is to run on, a test aid: ``cpu`` or none."""
    return os.environ.get("GLMC_ENGINE_PLATFORM") or None


def _switch(name: str, text: str) -> bool:
    if text not in ("", "0", "1"):
        raise RequestError(
            f"the environment variable {name} is neither on nor off",
            expected="1, 0 or unset",
            found=text,
        )
    return text == "1"
