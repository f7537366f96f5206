"""Sampling: the choice of a request's next token from a row of logits.

Read the files in this order: ``parameters`` (what a request may ask for), ``processors`` (what
changes the logits), ``drawing`` (temperature and filters), ``logprobs``, ``sampler``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glmc_runtime.engine.sampling.drawing import distribution
    from glmc_runtime.engine.sampling.parameters import SamplingParameters
    from glmc_runtime.engine.sampling.sampler import Sampler, next_tokens, not_finite

__all__ = ["Sampler", "SamplingParameters", "distribution", "next_tokens", "not_finite"]

# Imported when first asked for: parameters are checked without torch, before an artifact is read.
_MODULES = {
    "Sampler": "sampler",
    "SamplingParameters": "parameters",
    "distribution": "drawing",
    "next_tokens": "sampler",
    "not_finite": "sampler",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
