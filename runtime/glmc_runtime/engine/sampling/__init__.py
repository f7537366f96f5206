"""Sampling: the choice of a request's next token from a row of logits.

Read the files in this order: ``parameters`` (what a request may ask for), ``processors`` (what
changes the logits), ``distribution`` (temperature and filters), ``logprobs``, ``sampler``.
"""

from __future__ import annotations

from glmc_runtime.engine.sampling.distribution import distribution
from glmc_runtime.engine.sampling.parameters import SamplingParameters
from glmc_runtime.engine.sampling.sampler import Sampler, next_tokens, not_finite

__all__ = ["Sampler", "SamplingParameters", "distribution", "next_tokens", "not_finite"]
