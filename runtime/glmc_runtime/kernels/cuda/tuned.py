"""Configurations that were measured, by device: data in ``tables``, written by tuning.tune_cuda
and tuning.tune_in_place.

A table is ``{"device": name, "kernels": {kernel: {dtype: {key: {rows: configuration}}}}}`` in the
file ``tables/<slug of the device's name>.json``; ``key`` names the sizes that do not change, such
as "4608x4096". A configuration of a variant alone was not measured: it keeps that variant's default
where what was measured of more rows would serve.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import torch

TABLES = Path(__file__).parent / "tables"

Configuration = dict[str, Any]


def slug(device_name: str) -> str:
    """The name of a device as the name of a file: "NVIDIA H200" is nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")


def device_name() -> str | None:
    """What the driver calls the current device, or None without one."""
    return _name_of(torch.cuda.current_device()) if torch.cuda.is_available() else None


@functools.cache
def _name_of(index: int) -> str:
    return torch.cuda.get_device_name(index)


@functools.cache
def read_table(path: Path) -> dict[str, Any]:
    """The ``kernels`` of a table; empty where there is no such file."""
    if not path.is_file():
        return {}
    kernels: dict[str, Any] = json.loads(path.read_text())["kernels"]
    return kernels


def configuration(kernel: str, dtype: torch.dtype, key: str, rows: int) -> Configuration | None:
    """What was measured best for the smallest number of rows that is at least ``rows``.

    None where this device has no table, or the table no such entry: the kernel's default serves.
    """
    name = device_name()
    if name is None:
        return None
    by_dtype = read_table(TABLES / f"{slug(name)}.json").get(kernel, {})
    by_rows = by_dtype.get(str(dtype).removeprefix("torch."), {}).get(key, {})
    enough = [int(count) for count in by_rows if int(count) >= rows]
    return dict(by_rows[str(min(enough))]) if enough else None
