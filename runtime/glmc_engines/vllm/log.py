"""Lines of ours in vLLM's log."""

from __future__ import annotations

import logging
from typing import Any


def logger() -> Any:
    """A logger below vLLM's own, so that its options hold."""
    from vllm.logger import init_logger

    return init_logger("vllm.glmc")


def show_log(name: str) -> None:
    """Have the lines of a logger of ours shown where vLLM's are, which sets up only its own."""
    ours, theirs = logging.getLogger(name), logging.getLogger("vllm")
    ours.setLevel(theirs.getEffectiveLevel())
    for handler in theirs.handlers:
        if handler not in ours.handlers:
            ours.addHandler(handler)
