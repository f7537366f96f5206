"""Sessions of the shipped models on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import glmc_runtime
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc_runtime.generate.session import Session

MODELS = Path(__file__).parents[1] / "models"


def buckets_to(most: int) -> tuple[int, ...]:
    """Decode buckets up to ``most`` sequences: 1, 4, and powers of two from 8 on."""
    powers = [1, 4] + [1 << bit for bit in range(3, most.bit_length())]
    return tuple(sorted({each for each in powers if each < most} | {most}))


def make_session(
    checkpoint: Path,
    path: Path,
    dtype: str,
    target: str,
    decode_buckets: tuple[int, ...] = (1, 4, 8),
    **more: Any,
) -> tuple[Session, Path]:
    options = CompileOptions(
        target=target,
        dtype=dtype,
        block_size=32,
        max_context=512,
        decode_buckets=decode_buckets,
        prefill_buckets=(16, 64, 512),
    )
    if not path.exists():
        compile_model(checkpoint, path, options)
    return glmc_runtime.load(path, verify_hashes=False, **more), path
