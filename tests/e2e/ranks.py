"""One model for any number of ranks: artifacts of one capture, ranks as threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from glmc.capture.export import capture
from glmc.compiled import FrontEnd
from glmc.compiler import back_end, write_compiled
from glmc.config import CompileOptions
from glmc.ir.program import Program
from glmc.job import read_job
from glmc.pipeline import runner
from glmc.pipeline.records import PassRecord
from glmc_runtime.engine.assemble import assemble
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.engine.ranks.member import group_of
from glmc_runtime.generate.session import Session
from glmc_runtime.loading.loader import load_artifact
from tests.e2e.build import Place
from tests.support.ranks import on_ranks, process_groups

Result = TypeVar("Result")


@dataclass
class RankedBuilder:
    """Artifacts of one checkpoint; it is captured and fused once per dtype."""

    checkpoint: Path
    directory: Path
    common: dict[str, Any] = field(default_factory=dict)
    _fused: dict[str, tuple[Program, tuple[PassRecord, ...]]] = field(default_factory=dict)

    def artifact(self, place: Place, dtype: str = "float32", **more: Any) -> Path:
        """Compile for a target and a number of ranks, into a directory of its own."""
        options = CompileOptions(
            target=place.target,
            abi_profile=place.profile,
            dtype=dtype,
            **{**self.common, **more},
        )
        job = read_job(self.checkpoint, options)
        if dtype not in self._fused:
            program = capture(job.source.config, job.source.shape, job.dtype, job.capture)
            self._fused[dtype] = program, runner.fuse(program)
        program, records = self._fused[dtype]
        phases = runner.to_paged(program.copy(), options.block_size, records, dealt=job.dealt)
        number = len(list(self.directory.iterdir())) if self.directory.is_dir() else 0
        path = self.directory / f"{place.name}.{number}"
        write_compiled(back_end(FrontEnd(job, phases, {}, {}), job), path)
        return path


def with_ranks(path: Path, act: Callable[[Session], Result]) -> list[Result]:
    """What ``act`` gives on each rank of an artifact; all ranks do it at once, in lockstep."""
    size = load_artifact(path, verify_hashes=False).manifest.ranks.count
    groups = process_groups(size) if size > 1 else (None,)

    def run(rank: int) -> Result:
        artifact = load_artifact(path, verify_hashes=False, rank=rank)
        emulate = True if artifact.manifest.target == "xpu" else None
        group = None if size == 1 else group_of(artifact, groups[rank], rank, size)
        options = LoadOptions(emulate=emulate, kv_blocks=256)
        return act(Session(artifact, assemble(artifact, options, None, group)))

    return on_ranks(size, run)


def generated(path: Path, texts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Greedy tokens of all texts in one batch, which all ranks must agree on."""

    def act(session: Session) -> list[list[int]]:
        completions = session.generate(texts, max_new_tokens=count, ignore_eos=True)
        return [completion.tokens for completion in completions]

    first, *others = with_ranks(path, act)
    assert all(other == first for other in others)
    return first
