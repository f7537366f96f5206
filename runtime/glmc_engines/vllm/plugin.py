"""What the plug-in does in each process of vLLM: model classes, limits, metrics."""

from __future__ import annotations

from glmc_engines.core.counters import share_counters
from glmc_engines.vllm import compat
from glmc_engines.vllm.limits import prepare
from glmc_engines.vllm.metrics import register_metrics
from glmc_engines.vllm.models import CLASSES


def register_models() -> None:
    """Register the model classes; what is registered already stays."""
    share_counters()
    with compat.names_of_vllm():
        for architecture, model in CLASSES.items():
            compat.register_model(architecture, model)
            compat.hook_config(architecture, prepare)
    register_metrics()
