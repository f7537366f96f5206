"""What the general plug-in does in a process of SGLang's: model classes and their backend.

SGLang logs what a plug-in raises and starts without it. So nothing here refuses: that is for the
model classes, and for the backend of a model that is not ours where ``GLMC_REQUIRE`` asks for one.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from glmc_engines.core.counters import Counters, share_counters
from glmc_engines.core.errors import UnsupportedError
from glmc_engines.core.options import Options
from glmc_engines.sglang.requests import refuse_request

PACKAGE = "glmc_engines.sglang.models"
_VARIABLE = "SGLANG_EXTERNAL_MODEL_PACKAGE"
_LOG = logging.getLogger("glmc.engines")


def plug_in() -> None:
    """Bring the model classes, unless nobody asks for compiled plans."""
    from glmc_engines.sglang import compat

    options = Options.from_environment()
    if options.artifact is None and options.compiler is None and not options.require:
        _LOG.info("glmc serves nothing: neither GLMC_ARTIFACT nor GLMC_COMPILER is set")
        return
    share_counters()
    if os.environ.setdefault(_VARIABLE, PACKAGE) != PACKAGE:
        compat.register_models(PACKAGE)  # beside the package of another plug-in
    compat.route_attention_backends(_has_model_of_ours, _backend)
    compat.before_each_request(refuse_request)


def _has_model_of_ours(runner: Any) -> bool:
    """Whether a model is of our classes; where it is not, this is said, or refused."""
    if type(runner.model).__module__.startswith(PACKAGE):
        return True
    from glmc_engines.sglang.metrics import Metrics

    name = type(runner.model).__name__
    if Options.from_environment().require:
        raise UnsupportedError(
            "SGLang serves this model with a class of its own, and GLMC_REQUIRE=1 asks for ours",
            place=name,
            remedy="unset GLMC_REQUIRE, or serve one of GLM-4.x",
        )
    counters = Counters.of_rank(0)
    counters.set("serves", 0)
    Metrics(counters)
    _LOG.warning("glmc does not serve %s: SGLang has a class of its own for it", name)
    return False


def _backend(runner: Any) -> Any:
    from glmc_engines.sglang.attention import ReplayBackend

    return ReplayBackend(runner)
