"""The thin runtime: loads an artifact that glmc compiled and replays it.

``load(path)`` returns a :class:`glmc_runtime.session.Session`. Nothing here traces, compiles or
imports glmc or transformers. Read the files in this order: ``plan``, ``manifest``, ``loader``,
``arena``, ``inputs``, ``cache``, ``bind``, ``replay``, ``session``, ``generation``.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glmc_runtime.session import Session

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(
    path: str | PathLike[str],
    *,
    verify_hashes: bool = True,
    kv_blocks: int | None = None,
    kv_memory_bytes: int | None = None,
    emulate: bool | None = None,
    timing: bool = False,
) -> Session:
    """Load an artifact directory and make it ready to generate.

    ``verify_hashes`` reads every file once and compares its sha256 with the manifest.
    ``kv_blocks`` or ``kv_memory_bytes`` set the size of the KV cache (scratch block included); the
    default holds the largest decode bucket at full context, up to 2 GiB on a CPU and half of the
    free memory on a device. ``emulate`` forces the vendor emulator on (True) or refuses it (False);
    None takes the vendor's library where it is installed. ``timing`` measures each segment.

    Raises ArtifactError, GuardError, PlanError, VendorError or CapacityError.
    """
    from glmc_runtime.session import Session

    return Session.load(
        path,
        verify_hashes=verify_hashes,
        kv_blocks=kv_blocks,
        kv_memory_bytes=kv_memory_bytes,
        emulate=emulate,
        timing=timing,
    )
