"""Triton's interpreter: an artifact for cuda in host memory, for tests and a look without a GPU.

Nothing of it is fast. It is on only where the environment says ``TRITON_INTERPRET=1`` and torch
sees no CUDA device, and whatever ran so says it: statistics, command line and JSON.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from glmc_runtime.errors import GuardError

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger("glmc_runtime.device")
VARIABLE = "TRITON_INTERPRET"
INTERPRETED_NOTICE = "interpreted: no GPU was used"
TARGET = "cuda"
NEEDED = "triton >= 3.2"


def interpreting() -> bool:
    """Whether kernels for cuda run in the interpreter here."""
    if not _asked_for():
        return False
    import torch

    return not torch.cuda.is_available()


def is_interpreted(target: str, device: torch.device) -> bool:
    """Whether an artifact for ``target`` that was put on ``device`` is interpreted."""
    return target == TARGET and device.type == "cpu"


@cache
def say_interpreted() -> None:
    """Log, once in a process, that Triton's interpreter runs in the place of a GPU."""
    _LOG.warning("%s (by Triton's interpreter)", INTERPRETED_NOTICE)


def triton_found() -> bool:
    """Whether Triton is installed; it is not imported for that."""
    return importlib.util.find_spec("triton") is not None


def check_triton(functions: Iterable[str], device: torch.device) -> None:
    """Raise :class:`GuardError` where kernels of ``kernels/cuda`` are called and can't run."""
    if not any(function.partition(".")[0] == TARGET for function in functions):
        return
    if not triton_found():
        raise GuardError(
            "the kernels for cuda are written in Triton, which is not installed",
            expected=NEEDED,
            found="no package 'triton'",
            remedy=f"pip install '{NEEDED.replace(' ', '')}', the one that your torch asks for",
        )
    if _asked_for() and device.type != "cpu":
        raise GuardError(
            "the environment turns Triton's interpreter on, but torch sees a CUDA device",
            expected=f"no {VARIABLE}, or no CUDA device",
            found=f"{VARIABLE}=1 and '{device}'",
            remedy=f"unset {VARIABLE}, or hide the device by CUDA_VISIBLE_DEVICES=",
        )


def no_device(asked: bool) -> GuardError:
    """The error of an artifact for cuda where torch sees no CUDA device."""
    missing = ["a CUDA device (torch.cuda.is_available() is False)"]
    if not triton_found():
        missing.append(f"Triton (kernels/cuda needs {NEEDED})")
    return GuardError(
        "the device 'cuda' was asked for, but torch sees no such device"
        if asked
        else "the artifact is for cuda, but torch sees no such device",
        expected=f"an NVIDIA GPU, a torch built for CUDA and {NEEDED}",
        found="missing: " + ", ".join(missing),
        remedy="run it on a machine with these, compile with --target cpu, or, with Triton "
        f"installed, set {VARIABLE}=1 before Python starts: Triton's interpreter runs it in host "
        "memory, slowly",
    )


def _asked_for() -> bool:
    return os.environ.get(VARIABLE) == "1"
