"""What an artifact says of itself before it is loaded, held against what an engine will ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from glmc_engines.core.errors import NoArtifactError, UnsupportedError
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.loading.loader import listed_files

_FEW = 12


@dataclass(frozen=True)
class Sizes:
    """The largest steps and sequences that an engine will ask for, what it computes in, and the
    number of its tensor parallel ranks."""

    tokens: int
    sequences: int
    context: int
    dtype: torch.dtype
    ranks: int = 1


@dataclass(frozen=True)
class Header:
    """An artifact's manifest; no plan and no weight has been read."""

    path: Path
    manifest: Manifest

    @classmethod
    def of(cls, path: Path) -> Header:
        """Raises :class:`glmc_runtime.errors.ArtifactError` for what is no artifact."""
        return cls(path, listed_files(path)[0])

    @property
    def tokens(self) -> int:
        """The most tokens of a step."""
        return self.manifest.phase(PREFILL.key).buckets[-1]

    @property
    def sequences(self) -> int:
        """The most sequences of a step."""
        most = self.manifest.phase(PREFILL.key).largest["sequences"]
        return min(most, self.manifest.phase(DECODE.key).buckets[-1])

    @property
    def context(self) -> int:
        """The most tokens of a sequence."""
        cache = self.manifest.cache
        return min(self.manifest.limits.max_context, cache.blocks_per_sequence * cache.block_size)

    def check(self, sizes: Sizes) -> None:
        """Raise :class:`NoArtifactError` where the artifact is another than the engine needs, and
        :class:`UnsupportedError` where the engine may ask for a larger step than it has."""
        dtype, ranks = dtype_of(self.manifest.dtype), self.manifest.ranks.count
        if dtype != sizes.dtype:
            raise NoArtifactError(
                "the artifact computes in another dtype than the engine",
                place=str(self.path),
                expected=_name(sizes.dtype),
                found=_name(dtype),
                remedy=f"start the engine with dtype {_name(dtype)}, or compile with --dtype "
                f"{_name(sizes.dtype)}",
            )
        if ranks != sizes.ranks:
            raise NoArtifactError(
                "the artifact is for another number of tensor parallel ranks than the engine has",
                place=str(self.path),
                expected=str(sizes.ranks),
                found=str(ranks),
                remedy=f"start the engine with {ranks}, or compile with --tensor-parallel "
                f"{sizes.ranks}",
            )
        rows = (
            ("tokens in a step", sizes.tokens, self.tokens, "--prefill-buckets"),
            ("sequences in a step", sizes.sequences, self.sequences, "--decode-buckets"),
            ("tokens of a sequence", sizes.context, self.context, "--max-context"),
        )
        for what, asked, largest, option in rows:
            if asked > largest:
                raise UnsupportedError(
                    f"the engine may ask for more {what} than the artifact has",
                    place=str(self.path),
                    expected=f"at most {largest}",
                    found=str(asked),
                    remedy=f"limit the engine to {largest}, or compile with larger {option}",
                )

    def first_line(self, name: str, origin: str, emulated: bool, rank: int = 0) -> str:
        """What serves the model ``name``, in one line for the log."""
        manifest = self.manifest
        buckets = ", ".join(
            f"{entry.phase} {_listed(entry.buckets)}" for entry in manifest.phases_of(rank).values()
        )
        ranks = manifest.ranks.count
        return (
            f"glmc serves {name}: {self.path} ({origin}), {manifest.target}"
            f"{', emulated' if emulated else ''}, {manifest.dtype}, "
            f"{ranks} {'rank' if ranks == 1 else 'ranks'}, buckets: {buckets}"
        )


def _listed(buckets: Sequence[int]) -> str:
    """All of a few, the ends of many."""
    if len(buckets) <= _FEW:
        return "/".join(map(str, buckets))
    return f"{len(buckets)} of {buckets[0]} to {buckets[-1]}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
