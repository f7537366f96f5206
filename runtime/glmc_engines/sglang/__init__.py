"""glmc inside SGLang: entry points; nothing but the standard library is imported here.

``register`` is the general plug-in (group ``sglang.srt.plugins``), which SGLang calls once in each
process before it starts. It brings our model classes and the attention backend that goes with
them; platform, scheduler, KV pool, sampler and server stay SGLang's own.

SGLang logs what a plug-in raises and starts without it. It does not pass over the package in which
it looks for model classes: there, what has kept a plug-in from coming ends a start that requires
plans, even where nothing else of ours can be imported.
"""

from __future__ import annotations

import logging
import os

from glmc_engines.sglang.names import PACKAGE

_LOG = logging.getLogger("glmc.engines")
_failed: Exception | None = None


def register() -> None:
    """Let SGLang find our model classes; called in every process, any number of times. Where they
    can't come, all models are left to SGLang, or the start ends if plans are required."""
    global _failed
    try:
        from glmc_engines.sglang.plugin import plug_in

        plug_in()
    except Exception as error:  # noqa: BLE001 - SGLang would pass over any of them
        if os.environ.get("GLMC_REQUIRE", "") in ("", "0"):
            _LOG.warning("glmc leaves all models to SGLang: %s", error)
            return
        _failed = error
        os.environ["SGLANG_EXTERNAL_MODEL_PACKAGE"] = PACKAGE


def require_plugged_in() -> None:
    """Raise what has kept this process from the plug-in."""
    if _failed is not None:
        raise _failed
