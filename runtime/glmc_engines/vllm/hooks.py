"""Methods of vLLM's that call ours first or afterwards; each is replaced once in a process."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

from glmc_engines.core.errors import EngineVersionError


def after_config(check: Callable[[Any], None]) -> None:
    """Have ``check`` called once with each ``VllmConfig`` of a model, when its architecture is
    resolved."""
    from vllm.config import VllmConfig

    original = VllmConfig.try_verify_and_update_config
    if getattr(original, "of_glmc", False):
        return

    @wraps(original)
    def checked(self: Any) -> None:
        model = self.model_config
        first = model is not None and not getattr(model, "config_updated", False)
        original(self)
        if first:
            check(self)

    checked.of_glmc = True  # type: ignore[attr-defined]
    VllmConfig.try_verify_and_update_config = checked


def hook_worker(config: Any, refuse: Callable[[Any, str, int], None]) -> None:
    """Have ``refuse`` called, with the model, the method and the level of sleep, before a worker
    throws the weights of its model away: it may raise."""
    worker = config.parallel_config.worker_cls
    if isinstance(worker, str):
        module, _, name = worker.rpartition(".")
        worker = getattr(import_module(module), name)
    if not isinstance(worker, type):
        raise EngineVersionError(
            "the class of vLLM's workers is given in a form that is not known",
            place="vLLM, worker_cls",
            expected="its name, or the class",
            found=type(worker).__name__,
        )
    for name in ("sleep", "reset_weights"):
        original = getattr(worker, name, None)
        if original is not None and not getattr(original, "of_glmc", False):
            setattr(worker, name, _asking_first(original, name, refuse))


def _asking_first(
    original: Callable[..., Any], name: str, refuse: Callable[[Any, str, int], None]
) -> Callable[..., Any]:
    @wraps(original)
    def asking(self: Any, *arguments: Any, **options: Any) -> Any:
        level = options.get("level", arguments[0] if arguments else 1)
        refuse(getattr(self.model_runner, "model", None), name, level)
        return original(self, *arguments, **options)

    asking.of_glmc = True  # type: ignore[attr-defined]
    return asking
