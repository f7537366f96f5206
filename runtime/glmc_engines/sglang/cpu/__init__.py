"""SGLang on a CPU without its kernel package: a platform of ours, to test with.

It is no part of the distribution's entry points: where ``SGLANG_PLATFORM`` names a platform, SGLang
leaves out all other plug-ins of distributions that bring one. The folder ``STAND_INS`` has its
entry point and a torchvision, which SGLang imports at the start and text models never use. Put it
on ``PYTHONPATH`` and set ``GLMC_ENGINE_PLATFORM=cpu``.
"""

from __future__ import annotations

from pathlib import Path

from glmc_engines.core.options import platform_asked_for

STAND_INS = Path(__file__).parent / "stand_ins"


def platform() -> str | None:
    """The class of the platform where it is asked for, for SGLang's group of entry points."""
    if platform_asked_for() != "cpu":
        return None
    return "glmc_engines.sglang.cpu.platform.CpuPlatform"
