"""The programs that plans are made of: with the merges that the target has kernels for."""

from __future__ import annotations

from glmc.compiled import FrontEnd
from glmc.ir.program import Program
from glmc.job import Job
from glmc.pipeline import runner
from glmc_runtime.format.phases import PhaseKey


def programs_as_lowered(front: FrontEnd, job: Job) -> dict[PhaseKey, Program]:
    """By phase; the nodes have the names that ``Lowered.outputs`` has."""
    programs = front.phases.programs.items()
    return {key: runner.merge(program, job.target.rules)[0] for key, program in programs}
