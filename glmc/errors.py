"""Errors of the compiler; the base class and the form are the runtime's."""

from __future__ import annotations

from glmc_runtime.errors import GlmcError, Lines

__all__ = [
    "AbiError",
    "CaptureError",
    "CheckpointError",
    "ConfigError",
    "GlmcError",
    "InternalError",
    "Lines",
    "LoweringError",
    "MatchCountError",
    "OutOfMemoryError",
    "PackError",
    "UsageError",
    "VerificationError",
]


class UsageError(GlmcError):
    """Options that contradict each other or name something unknown."""

    code = "GLMC-1001"
    usual_remedy = "see the options: 'glmc COMMAND --help', or in Python help(glmc.compile)"


class ConfigError(GlmcError):
    """config.json is missing, lacks a field, or names an architecture that glmc does not know."""

    code = "GLMC-1002"
    usual_remedy = "use the config.json that was published with the checkpoint"


class CheckpointError(GlmcError):
    """Weight files are missing, truncated, or hold missing, surplus or misshapen tensors."""

    code = "GLMC-1003"
    usual_remedy = "download the checkpoint again, or use the config.json that belongs to it"


class CaptureError(GlmcError):
    """The model could not be traced into one graph."""

    code = "GLMC-1004"
    usual_remedy = "report the model and the versions of torch and transformers"


class MatchCountError(GlmcError):
    """A pass found another number of matches than the model must have."""

    code = "GLMC-1005"


class LoweringError(GlmcError):
    """An op of the graph has no kernel on the target, or breaks one of its limits."""

    code = "GLMC-1006"
    usual_remedy = "compile for another target, or report the model and the op"


class AbiError(GlmcError):
    """An ABI profile does not exist or lacks what the plan needs."""

    code = "GLMC-1007"


class PackError(GlmcError):
    """The artifact could not be written; nothing is left behind."""

    code = "GLMC-1008"


class VerificationError(GlmcError):
    """What a pass left, or the replayed plan, computes something else than its class allows."""

    code = "GLMC-1010"
    exit_status = 1
    usual_remedy = "report the model and the versions of glmc, torch and transformers"


class OutOfMemoryError(GlmcError):
    """Memory ran out while a model was compiled; the place is the stage that asked for it."""

    code = "GLMC-1011"
    usual_remedy = "compile where more memory is free, or raise its limit (ulimit -v, cgroup)"


class InternalError(GlmcError):
    """A rule of the compiler itself is broken; please report it."""

    code = "GLMC-1999"
    exit_status = 1
    usual_remedy = "report the command and the versions of glmc, torch and transformers"
