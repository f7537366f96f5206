"""What the plug-in does in each process of vLLM: model classes, limits, metrics."""

from __future__ import annotations

from typing import Any

from glmc_engines.core.counters import Counters, share_counters
from glmc_engines.core.errors import UnsupportedError
from glmc_engines.core.options import Options
from glmc_engines.vllm import compat, hooks
from glmc_engines.vllm.limits import prepare_first
from glmc_engines.vllm.log import logger, show_log
from glmc_engines.vllm.metrics import register_metrics
from glmc_engines.vllm.models import CLASSES

_LOG = logger()


def register_models() -> None:
    """Register the model classes; what is registered already stays."""
    share_counters()
    show_log("glmc.engines")
    with compat.names_of_vllm():
        compat.check_registry()  # before hooks, which stay
        hooks.after_config(_refuse_other_classes)
        for architecture in CLASSES:  # all, before any class serves without its limits
            compat.hook_config(architecture, prepare_first)
        for architecture, model in CLASSES.items():
            compat.register_model(architecture, model)
    register_metrics()


def _refuse_other_classes(config: Any) -> None:
    """Refuse a model that vLLM has resolved to a class which is none of ours, such as its way
    through transformers, where plans are asked for; otherwise say that plans do not serve it."""
    architecture = config.model_config.architecture
    if compat.is_registered(architecture, CLASSES.get(architecture)):
        return
    options = Options.from_environment()
    if options.require or options.artifact is not None:
        raise UnsupportedError(
            "vLLM serves this model with a class that is none of glmc's",
            place=f"vLLM, {config.model_config.model}",
            expected=f"{', '.join(CLASSES)}, of glmc",
            found=str(architecture),
            remedy="serve one of GLM-4.x, without --model-impl, or leave the model to vLLM: unset "
            "GLMC_REQUIRE and GLMC_ARTIFACT",
        )
    Counters.of_rank(0).set("serves", 0)
    _LOG.warning(
        "glmc does not serve %s: vLLM has %s for it", config.model_config.model, architecture
    )
