"""Sessions of the shipped models on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import glmc_runtime
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc_runtime.generate.session import Session

MODELS = Path(__file__).parents[1] / "models"


def make_session(
    checkpoint: Path, path: Path, dtype: str, target: str, **more: Any
) -> tuple[Session, Path]:
    options = CompileOptions(
        target=target,
        dtype=dtype,
        block_size=32,
        max_context=512,
        decode_buckets=(1, 4, 8),
        prefill_buckets=(16, 64, 512),
    )
    if not path.exists():
        compile_model(checkpoint, path, options)
    return glmc_runtime.load(path, verify_hashes=False, **more), path
