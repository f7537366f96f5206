"""The adapter for vLLM: a general plug-in, beside any platform."""

from __future__ import annotations


def register() -> None:
    """Entry point ``vllm.general_plugins``; called in each process, and more than once."""
    from glmc_engines.vllm.plugin import register_models

    register_models()
