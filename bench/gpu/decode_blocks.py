"""Blocks of decode steps by ours and by vLLM's, of the same batch, context and number of steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import sleep

from bench.gpu import gpu_ours
from bench.gpu.gpu_peers import Plan
from bench.models import BenchModel
from bench.processes import Running
from glmc_runtime.engine.sequences import Sequence
from glmc_runtime.generate.session import Session

WARM = 8  # steps before those that count, as vLLM's side has
REST = 1.0  # seconds
POWER_BATCH = 64
"""Sequences from which on steps come to the card's limit of power, so that how fast they are
depends on what went before (docs/performance.md, "Power"): the card idles before either side's."""


def rest_before(batch: int, quick: bool) -> float:
    """Seconds in which the card idles before steps of as many sequences, of ours or of vLLM's."""
    return REST if batch >= POWER_BATCH and not quick else 0.0


@dataclass(frozen=True)
class Blocks:
    """Each call is a block of ``plan.steps`` steps after ``rest`` seconds, around the same context,
    and gives the milliseconds of a step."""

    session: Session
    side: Running
    plan: Plan
    sequences: list[Sequence]
    rest: float

    def ours(self) -> float:
        """The time between two tokens that the host reads."""
        sleep(self.rest)
        for sequence in self.sequences:
            self.session.truncate(sequence, self.plan.first)
        return gpu_ours.greedy_times(self.session, self.sequences, self.plan)[0]

    def theirs(self) -> float:
        """The time between two outputs of the engine's step loop."""
        sleep(self.rest)
        batch, context, steps = self.plan.batch, self.plan.context, self.plan.steps
        found = self.side.ask("decode", batch=batch, context=context, steps=steps, seed=batch)
        return float(found["ms"])


@contextmanager
def decode_blocks(
    model: BenchModel,
    session: Session,
    side: Running,
    *,
    batch: int,
    context: int,
    steps: int,
    rest: float = 0.0,
) -> Iterator[Blocks]:
    """Both sides of a batch; ours has its sequences until the end."""
    plan = Plan(batch, context, repeats=1, steps=steps, warm=WARM)
    sequences = gpu_ours.filled(model, session, batch, plan.first)
    try:
        yield Blocks(session, side, plan, sequences, rest)
    finally:
        gpu_ours.released(session, sequences)
