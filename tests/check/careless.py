"""A kernel that writes over what it has nothing to do with."""

from __future__ import annotations

from typing import Any

import torch

from glmc_runtime.kernels import find_binder


def careless(function: str) -> Any:
    """In the place of ``find_binder``: ``cpu.moe_gate`` zeroes the memory around its results."""
    bind = find_binder(function)
    if function != "cpu.moe_gate":
        return bind

    def bound(arguments: dict[str, Any]) -> Any:
        thunk, outputs = bind(arguments), [arguments["weights"], arguments["ids"]]

        def run() -> None:
            thunk()
            kept = [each.clone() for each in outputs]
            memory = torch.empty(0, dtype=torch.uint8)
            memory.set_(outputs[0].untyped_storage()).zero_()
            for output, value in zip(outputs, kept, strict=True):
                output.copy_(value)

        return run

    return bound
