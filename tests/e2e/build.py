"""Compile a checkpoint for several targets from one capture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import glmc_runtime
from glmc.compiled import FrontEnd
from glmc.compiler import back_end, front_end, write_compiled
from glmc.config import CompileOptions
from glmc.job import read_job
from glmc_runtime.generate.session import Session

BLOCK_SIZE = 16
# The decode batch of 16 and the packed prompts are padded in both.
UNCHUNKED: dict[str, Any] = {"prefill_buckets": (64, 512), "decode_buckets": (4, 20)}
CHUNKED: dict[str, Any] = {"prefill_buckets": (4, 16), "decode_buckets": (4, 20)}


class Place(NamedTuple):
    """A target and, for ``xpu`` (which runs on the emulator here), its ABI profile."""

    target: str
    profile: str | None

    @property
    def name(self) -> str:
        return self.target if self.profile is None else f"{self.target}_{self.profile}_emulated"


CPU = Place("cpu", None)
EMULATED = tuple(Place("xpu", profile) for profile in ("P-A", "P-B", "P-C"))
PLACES = (CPU, *EMULATED)


class Builder:
    """Artifacts of one checkpoint; capture and passes run once per dtype."""

    def __init__(self, checkpoint: Path, directory: Path, block_size: int = BLOCK_SIZE) -> None:
        self.checkpoint = checkpoint
        self.directory = directory
        self.block_size = block_size
        self._fronts: dict[str | None, FrontEnd] = {}

    def options(self, place: Place, dtype: str | None = None, **more: Any) -> CompileOptions:
        return CompileOptions(
            target=place.target,
            abi_profile=place.profile,
            dtype=dtype,
            block_size=self.block_size,
            **{**UNCHUNKED, **more},
        )

    def artifact(self, place: Place, dtype: str | None = None, **more: Any) -> Path:
        """Compile once more, into a directory of its own."""
        job = read_job(self.checkpoint, self.options(place, dtype, **more))
        if dtype not in self._fronts:
            self._fronts[dtype] = front_end(job)
        compiled = back_end(self._fronts[dtype], job)
        number = len(list(self.directory.iterdir())) if self.directory.is_dir() else 0
        path = self.directory / f"{place.name}.{number}"
        write_compiled(compiled, path)
        return path

    def session(self, place: Place, dtype: str | None = None, **more: Any) -> Session:
        """A loaded session; the emulator is asked for exactly where the target is ``xpu``."""
        path = self.artifact(place, dtype, **more)
        session = glmc_runtime.load(path, emulate=True if place.target == "xpu" else None)
        assert session.emulated is (place.target == "xpu")
        return session


def generated(session: Session, texts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Greedy tokens of all texts in one batch; no text ends early."""
    completions = session.generate(texts, max_new_tokens=count, ignore_eos=True)
    return [completion.tokens for completion in completions]
