"""Random programs through ``torch.compile(backend="kunlun")`` give what eager code gives.

The seeds are fixed: the same programs are drawn in every run. ``GLMC_RANDOM_PROGRAMS`` is how many
the slow suite draws; the summary is in docs/verification.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from tests.random_programs.compared import Tally, compare
from tests.random_programs.programs import Program, programs

COUNT = int(os.environ.get("GLMC_RANDOM_PROGRAMS", "150"))
SEED = int(os.environ.get("GLMC_RANDOM_SEED", "0"))


def _drawn(
    count: int, seed: int, phases: tuple[Phase, ...], check: Callable[[Program], None]
) -> None:
    """``check`` for ``count`` programs; of one that fails, hypothesis says the smallest that it
    finds."""
    profile = settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    seeded(seed)(profile(given(programs())(check)))()


@pytest.mark.slow
def test_a_few_programs() -> None:
    tally = Tally()
    targets = iter(("cpu", "xpu") * 3)
    _drawn(6, SEED, (Phase.generate,), lambda program: compare(program, next(targets), tally))
    assert tally.found["equal"] >= 4, tally.line()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "xpu"])
def test_many_programs(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    try:
        phases = (Phase.generate, Phase.shrink)
        _drawn(COUNT, SEED + 1, phases, lambda program: compare(program, target, tally))
    finally:
        with capsys.disabled():
            print(f"\nrandom programs, {target}, seed {SEED}: {tally.line()}")
    assert tally.found["fused"] > COUNT // 2
