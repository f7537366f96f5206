"""The adapter for vLLM: a general plug-in, beside any platform.

vLLM logs a plug-in that can't be imported and starts without it, but ends with what a plug-in
raises when it is called. So this module imports the standard library alone, and everything else
when it is called.
"""

from __future__ import annotations

import logging
import os


def register() -> None:
    """Entry point ``vllm.general_plugins``; called in each process, and more than once.

    Where plans are required or an artifact is named, what keeps the plug-in from its work ends the
    start. Otherwise the log says so, and vLLM has its own models alone.
    """
    try:
        from glmc_engines.vllm.plugin import register_models

        register_models()
    except Exception as error:
        if os.environ.get("GLMC_REQUIRE", "0") not in ("", "0") or os.environ.get("GLMC_ARTIFACT"):
            raise _not_plugged_in(error) from error
        logging.getLogger("vllm.glmc").warning(
            "glmc leaves all models to vLLM: %s", _not_plugged_in(error), exc_info=error
        )
        _serves_nothing()


def _not_plugged_in(error: Exception) -> Exception:
    """What has happened, as an error of ours; the runtime, which has their form, may be missing."""
    found = f"{type(error).__name__}: {error}"
    try:
        from glmc_engines.core.errors import EngineVersionError
        from glmc_runtime.errors import GlmcError
    except ImportError:
        return ImportError(
            "[GLMC-4003] glmc can't be plugged into vLLM\n"
            f"  found:    {found}\n"
            "  remedy:   install glmc-runtime and glmc-engines of one release into this environment"
        )
    if isinstance(error, GlmcError):
        return error
    return EngineVersionError("glmc can't be plugged into vLLM", place="vLLM", found=found)


def _serves_nothing() -> None:
    """Say so in the metrics, as far as they can be reached."""
    try:
        from glmc_engines.core.counters import Counters, share_counters
        from glmc_engines.vllm.metrics import register_metrics

        share_counters()
        Counters.of_rank(0).set("serves", 0)
        register_metrics()
    except ImportError as error:
        logging.getLogger("vllm.glmc").warning("glmc_serves is in no metrics: %s", error)
