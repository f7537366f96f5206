"""Models aligned with what they were compiled from, also as no artifact would have them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from glmc.check.align.captured import CapturedModel
from glmc.check.align.expectation import Expectation
from glmc.check.align.own import own_errors
from glmc.check.align.rebuilt import CapturedProgram, Rebuilt
from glmc.check.align.result import Alignment
from glmc.check.align.run import Sequences
from glmc.check.calls.as_lowered import with_all_values
from glmc.check.verify.weights import ModelWeights
from glmc.compiled import Compiled, FrontEnd
from glmc.compiler import back_end, front_end, write_compiled
from glmc.config import CompileOptions
from glmc.job import Job, read_job
from glmc_runtime.loading.loader import load_artifact

SHIPPED = Path(__file__).parents[3] / "models"
LENGTHS = (5, 1, 11)
STEPS = 2
PLACES = ("cpu", "xpu/P-A", "xpu/P-B", "xpu/P-C")
"""Targets, with their ABI profile behind a stroke."""
DTYPES = ("float32", "bfloat16", "float16")
Edit = Callable[[Compiled], Compiled]
Front = tuple[CapturedProgram, FrontEnd]
OPTIONS = CompileOptions(
    max_context=64, block_size=16, prefill_buckets=(16, 32), decode_buckets=(1, 4)
)


@dataclass
class Aligner:
    """A model in several dtypes, captured and put through its passes once in each."""

    model: Path
    _fronts: dict[str, Front] = field(default_factory=dict)

    def job(self, place: str, dtype: str, options: CompileOptions = OPTIONS) -> Job:
        target, _, profile = place.partition("/")
        changed = replace(options, target=target, abi_profile=profile or None, dtype=dtype)
        return read_job(self.model, changed)

    def front(self, job: Job) -> Front:
        """What was made for the dtype of a job before."""
        if job.lowering.ranks > 1:
            return new_front(job)
        dtype = str(job.dtype)
        if dtype not in self._fronts:
            self._fronts[dtype] = new_front(job)
        return self._fronts[dtype]

    def align(
        self,
        place: str,
        dtype: str,
        edit: Edit = lambda compiled: compiled,
        front: Callable[[Job], Front] | None = None,
        reference: Callable[[Rebuilt], Expectation | None] | None = None,
        options: CompileOptions = OPTIONS,
    ) -> Alignment:
        """Align a ragged prefill and some decode steps of what ``edit`` makes of a compile with the
        captured model, or with another ``reference``."""
        job = self.job(place, dtype, options)
        captured, made = (front or self.front)(job)
        with rebuilt_of(captured, made, edit(back_end(made, job))) as rebuilt:
            expected = captured_model(rebuilt) if reference is None else reference(rebuilt)
            return own_errors(rebuilt, prompts(job), expected)


def new_front(job: Job) -> Front:
    captured = CapturedProgram()
    return captured, front_end(job, captured)


@contextmanager
def rebuilt_of(captured: CapturedProgram, front: FrontEnd, compiled: Compiled) -> Iterator[Rebuilt]:
    """An artifact of what was compiled, with its programs."""
    weights = compiled.job.weights
    assert weights is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "artifact"
        write_compiled(compiled, path)
        yield Rebuilt(
            load_artifact(path),
            compiled,
            with_all_values(front, compiled),
            ModelWeights(weights),
            captured.program(),
        )


def captured_model(rebuilt: Rebuilt) -> Expectation:
    return CapturedModel(rebuilt.captured, rebuilt.weights, rebuilt.values)


def prompts(job: Job) -> Sequences:
    """Ragged and random."""
    generator = torch.Generator().manual_seed(5)
    vocabulary = job.source.shape.vocabulary
    drawn = [torch.randint(0, vocabulary, (each,), generator=generator) for each in LENGTHS]
    return Sequences([each.tolist() for each in drawn], STEPS)
