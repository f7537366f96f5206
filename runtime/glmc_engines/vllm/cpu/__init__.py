"""A platform for vLLM on a host without any accelerator: a test aid, used on request alone."""

from __future__ import annotations

from glmc_engines.core.options import platform_asked_for


def platform() -> str | None:
    """Entry point ``vllm.platform_plugins``: the class of the platform, if it is asked for."""
    if platform_asked_for() != "cpu":
        return None
    return "glmc_engines.vllm.cpu.platform.HostPlatform"
