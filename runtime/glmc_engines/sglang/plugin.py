"""What the general plug-in does in a process of SGLang's: model classes and their backend.

What must end a start is raised where SGLang does not pass over it: when it imports the model
classes, makes a model, or makes an attention backend for it.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any

from glmc_engines.core.counters import Counters, share_counters
from glmc_engines.core.errors import EngineVersionError, UnsupportedError
from glmc_engines.core.options import Options
from glmc_engines.sglang.names import PACKAGE
from glmc_engines.sglang.requests import refuse_request

_LOG = logging.getLogger("glmc.engines")


def plug_in() -> None:
    """Bring the model classes; what is there already stays. Raises :class:`EngineVersionError`
    where this release of SGLang lacks a name that is needed."""
    share_counters()
    try:
        _bring()
    except (ImportError, AttributeError, TypeError) as error:
        raise version_error(error) from error


def version_error(error: Exception) -> EngineVersionError:
    """A name that is missing in SGLang, as an error of ours."""
    return EngineVersionError(
        "this release of SGLang lacks a name that its adapter needs", found=str(error)
    )


def _bring() -> None:
    from glmc_engines.sglang import compat

    route_attention_backends()
    _look_at_requests()
    if os.environ.setdefault("SGLANG_EXTERNAL_MODEL_PACKAGE", PACKAGE) != PACKAGE:
        compat.register_models(PACKAGE)  # beside the package of another plug-in


def route_attention_backends() -> None:
    """Have our backend stand for each that is registered by now; those of a plug-in that comes
    later are routed when a model of ours is made."""
    from glmc_engines.sglang import compat

    compat.route_attention_backends(_has_model_of_ours, _backend)


@cache
def _look_at_requests() -> None:
    """Once in a process: each hook that is registered is called for each request."""
    from glmc_engines.sglang import compat

    compat.before_each_request(refuse_request)


def _has_model_of_ours(runner: Any) -> bool:
    """Whether a model is of our classes; where it is not, this is said, or refused."""
    if type(runner.model).__module__.startswith(PACKAGE):
        return True
    name = type(runner.model).__name__
    options = Options.from_environment()
    if options.require or options.artifact is not None:
        raise UnsupportedError(
            "SGLang serves this model with a class that is none of glmc's",
            place=name,
            remedy="serve one of GLM-4.x, or leave the model to SGLang: unset GLMC_REQUIRE and "
            "GLMC_ARTIFACT",
        )
    _say_not_served(name)
    return False


@cache
def _say_not_served(name: str) -> None:
    """Once in a process: a model may have several backends, and a draft has its own."""
    from glmc_engines.sglang.metrics import Metrics

    counters = Counters.of_rank(0)
    counters.set("serves", 0)
    Metrics(counters)
    _LOG.warning("glmc does not serve %s: SGLang has a class of its own for it", name)


def _backend(runner: Any) -> Any:
    from glmc_engines.sglang.attention import ReplayBackend

    return ReplayBackend(runner)
