"""Errors of a start inside a serving engine, in the form of the runtime's."""

from __future__ import annotations

from glmc_runtime.errors import GlmcError


class UnsupportedError(GlmcError):
    """The engine's options, or a request, ask for something that compiled plans do not have."""

    code = "GLMC-4001"
    usual_remedy = "start the engine without the option that is named"


class NoArtifactError(GlmcError):
    """No artifact is named, and none can be compiled; or the one that is named does not fit the
    model and the options of the engine."""

    code = "GLMC-4002"
    usual_remedy = "name an artifact of this checkpoint: GLMC_ARTIFACT=DIRECTORY"


class EngineVersionError(GlmcError):
    """The engine lacks a name that its adapter needs, or does what it is not known to do."""

    code = "GLMC-4003"
    usual_remedy = "install a release of the engine that docs/engines.md lists"

    @classmethod
    def missing(cls, engine: str, name: str, found: str = "") -> EngineVersionError:
        """For a name that is not there, in any spelling that is known."""
        return cls(f"this release of {engine} has no {name}", place=engine, found=found)


class CompileError(GlmcError):
    """No artifact is named, and compiling one for the engine's checkpoint failed."""

    code = "GLMC-4004"
    exit_status = 1
    usual_remedy = (
        "do what the compiler says, or name an artifact that was compiled elsewhere: "
        "GLMC_ARTIFACT=DIRECTORY"
    )
