"""Names of the devices that are described; nothing here needs torch."""

from __future__ import annotations

from functools import cache
from importlib import resources

from glmc.errors import UsageError
from glmc_runtime.command.nearest import did_you_mean

SUFFIXES = (".yaml", ".yml")


@cache
def device_names() -> tuple[str, ...]:
    """Names of the descriptions of the package, sorted."""
    files = resources.files("glmc.estimates.devices").iterdir()
    return tuple(sorted(file.name[:-5] for file in files if file.name.endswith(".yaml")))


def require_device(name: str) -> None:
    """Raise UsageError unless it is the name of a description or written as a file of one."""
    if name not in device_names() and not name.endswith(SUFFIXES):
        raise UsageError(
            f"there is no device '{name}'",
            expected=f"{', '.join(device_names())}, or a FILE.yaml",
            remedy=did_you_mean(name, device_names()) or "describe it in a file: docs/estimate.md",
        )
