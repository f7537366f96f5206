"""What a serving engine wants of a plan, and the options of ``glmc compile`` that make it so."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from glmc_engines.core.header import Header, Sizes

DECODE = (1, 2, 4, 8, 16, 24, 32)


@dataclass(frozen=True)
class Wanted:
    """``target`` is what the engine computes on: cpu, cuda or xpu. ``block_size`` is that of its
    KV cache, in tokens; None where it takes the artifact's. With ``smaller_steps`` the engine can
    do with fewer tokens and sequences in a step than ``sizes`` says."""

    target: str
    sizes: Sizes
    block_size: int | None = None
    expert_parallel: bool = False
    abi_profile: str | None = None
    smaller_steps: bool = False

    @property
    def dtype(self) -> str:
        return str(self.sizes.dtype).removeprefix("torch.")

    def sizes_of(self, header: Header) -> Sizes:
        """The sizes that an artifact must have: steps of its own, if smaller ones will do."""
        if not self.smaller_steps:
            return self.sizes
        return replace(
            self.sizes,
            tokens=min(self.sizes.tokens, header.tokens),
            sequences=min(self.sizes.sequences, header.sequences),
        )

    def arguments(self) -> list[str]:
        """Options of ``glmc compile``, for steps of any size that the engine may ask for."""
        sizes = self.sizes
        return [
            *self._options(),
            f"--decode-buckets={_numbers(decode_buckets(sizes.sequences))}",
            f"--prefill-buckets={_numbers(prefill_buckets(sizes.tokens))}",
        ]

    def command(self, checkpoint: Path) -> str:
        """The command that compiles a checkpoint so, to be typed."""
        options = self._options() if self.smaller_steps else self.arguments()
        words = ["glmc", "compile", str(checkpoint), *options, "--output", "ARTIFACT"]
        return shlex.join(words)

    def _options(self) -> list[str]:
        sizes = self.sizes
        options = [
            f"--target={self.target}",
            f"--dtype={self.dtype}",
            f"--max-context={sizes.context}",
            "--weights=from-engine",
        ]
        if self.block_size is not None:
            options.append(f"--block-size={self.block_size}")
        if self.abi_profile is not None:
            options.append(f"--abi-profile={self.abi_profile}")
        if sizes.ranks > 1:
            options.append(f"--tensor-parallel={sizes.ranks}")
            options += ["--expert-parallel"] if self.expert_parallel else []
        return options


def target_of(device: str) -> str:
    """The target of a kind of device as torch calls it; Kunlun's is called cuda there, and has the
    vendor's library. Nothing is imported."""
    if device == "cpu":
        return "cpu"
    return "cuda" if importlib.util.find_spec("kunlun_ops") is None else "xpu"


def decode_buckets(largest: int) -> tuple[int, ...]:
    """Sequences that decode steps are padded to, up to ``largest``: small ones, then four in each
    doubling."""
    found = list(DECODE)
    while found[-1] < largest:
        found.append(found[-1] + _power(found[-1]) // 4)
    return (*(size for size in found if size < largest), largest)


def prefill_buckets(largest: int) -> tuple[int, ...]:
    """Tokens that other steps are padded to, up to ``largest``: eight in each doubling, and one in
    each 128 tokens: padded tokens are computed like others."""
    found = [16]
    while found[-1] < largest:
        found.append(found[-1] + min(max(_power(found[-1]) // 8, 16), 128))
    return (*(size for size in found if size < largest), largest)


def _power(number: int) -> int:
    """The largest power of two that is no larger."""
    return 1 << (number.bit_length() - 1)


def _numbers(sizes: Iterable[int]) -> str:
    return ",".join(map(str, sizes))
