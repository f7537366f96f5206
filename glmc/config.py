"""What a user may choose for a compile, with defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glmc.errors import UsageError
from glmc_runtime.entry_points import entries

TARGETS = ("cpu", "cuda", "xpu")
DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_PROFILE = "P-A"


@dataclass(frozen=True)
class CompileOptions:
    """``dtype`` None takes the checkpoint's. ``max_context`` None takes the model's, at most 8192.

    ``decode_buckets`` are batch sizes, ``prefill_buckets`` numbers of packed tokens.
    ``capture_attention``, ``capture_experts`` and ``marked`` choose how the model is spelled while
    it is traced; the plan must not depend on it. ``full_capture`` traces every layer.
    ``pipeline`` is a file that lists the passes, ``passes_on`` names installed passes of others to
    run too, ``passes_off`` passes to leave out.
    """

    target: str = "cpu"
    dtype: str | None = None
    abi_profile: str | None = None
    max_context: int | None = None
    block_size: int = 128
    decode_buckets: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    prefill_buckets: tuple[int, ...] = (16, 64, 256, 512)
    weights: str = "checkpoint"
    seed: int = 0
    allow_missing: bool = False
    force: bool = False
    full_capture: bool = False
    capture_attention: str = "sdpa"
    capture_experts: str = "batched_mm"
    marked: bool = False
    passes_on: tuple[str, ...] = ()
    passes_off: tuple[str, ...] = ()
    pipeline: str | None = None

    def __post_init__(self) -> None:
        if self.target not in TARGETS and self.target not in entries("glmc.targets"):
            raise UsageError(
                f"there is no target '{self.target}'",
                expected=", ".join((*TARGETS, *entries("glmc.targets"))),
                remedy="name one of these, or install the distribution that brings it",
            )
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(
                f"there is no dtype '{self.dtype}'", expected=", ".join(DTYPES), remedy="--dtype"
            )
        if self.abi_profile is not None and self.target != "xpu":
            raise UsageError(
                "an ABI profile only exists for the xpu target",
                found=f"--target {self.target} --abi-profile {self.abi_profile}",
                remedy="drop --abi-profile, or compile with --target xpu",
            )
        for name, buckets in (("decode", self.decode_buckets), ("prefill", self.prefill_buckets)):
            ascending = list(buckets) == sorted(set(buckets))
            if not buckets or not ascending or buckets[0] < 1:
                raise UsageError(
                    f"the {name} buckets must be positive and ascend",
                    found=", ".join(map(str, buckets)) or "none",
                    remedy=f"--{name}-buckets 1,2,4",
                )
        if self.block_size < 1:
            raise UsageError(
                "a block must hold at least one token",
                found=str(self.block_size),
                remedy="--block-size 128",
            )
        if self.max_context is not None and self.max_context < 1:
            raise UsageError(
                "the context must hold a token",
                found=str(self.max_context),
                remedy="choose a larger --max-context",
            )
        if self.weights not in ("checkpoint", "random", "none"):
            raise UsageError("weights are checkpoint, random or none", found=self.weights)

    @property
    def supplied(self) -> Mapping[str, Any]:
        """Fields of config.json that these options give when the file does not have them."""
        return {"dtype": self.dtype, "max_position_embeddings": self.max_context}
