"""The device of a graph, the target that it asks for, and combinations that are refused."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from glmc.dynamo.options import PLACE, DynamoOptions
from glmc.errors import UsageError
from glmc_runtime.kernels import interpreter


def device_of(examples: Sequence[Any]) -> torch.device:
    """The one device of all tensors; raises UsageError where they are on several."""
    devices = {item.device for item in examples if isinstance(item, Tensor)}
    # A scalar on the CPU goes with tensors of any device.
    others = {device for device in devices if device.type != "cpu"}
    if len(others) > 1:
        raise UsageError(
            "one graph has tensors on several devices",
            expected="all on one device",
            found=", ".join(sorted(map(str, devices))),
            remedy="move the model and its inputs to one device before the call",
        )
    return next(iter(others or devices), torch.device("cpu"))


def target_of(device: torch.device) -> str:
    """The target that a device asks for. A Kunlun card calls itself cuda."""
    if device.type == "cuda":
        return "xpu" if find_spec("torch_xmlir") is not None else "cuda"
    return device.type


def refuse_device(target: str, device: torch.device) -> None:
    """Raise UsageError where the kernels of ``target`` can't work on what is on ``device``."""
    if target == "cpu" and device.type != "cpu":
        raise UsageError(
            "target 'cpu' can't work on tensors of another device",
            place=PLACE,
            expected="model and inputs on the CPU",
            found=str(device),
            remedy="leave 'target' out of options, or move the model and its inputs to the CPU",
        )
    if target == interpreter.TARGET and device.type != "cuda" and not interpreter.interpreting():
        raise UsageError(
            "target 'cuda' needs tensors on a CUDA device",
            place=PLACE,
            expected="model and inputs on a CUDA device",
            found=f"{device}, and "
            + ("a CUDA device is there" if torch.cuda.is_available() else "torch sees no GPU"),
            remedy="move the model and its inputs there, leave 'target' out of options, or, "
            f"without a GPU, set {interpreter.VARIABLE}=1 before Python starts: Triton's "
            "interpreter runs the kernels on the CPU, slowly",
        )


def refuse_capture(options: DynamoOptions, device: torch.device) -> None:
    """Raise UsageError where device graphs are required and the device has none."""
    if options.graph_capture and device.type == "cpu":
        raise UsageError(
            "option 'graph_capture' asks for device graphs, and the inputs are on the CPU",
            place=PLACE,
            expected="inputs on a device that has graphs",
            found=str(device),
            remedy="leave 'graph_capture' out of options: graphs are captured where the device "
            "has them",
        )
