"""The steps of a program as dumps count them: a number, a stage and a name for each."""

from __future__ import annotations

from dataclasses import dataclass

from glmc.passes import shard, specialise
from glmc.passes.kv_cache import NAME as NAME_OF_PAGING
from glmc.pipeline.stages import PASSES, stage_of

Names = tuple[str, ...]
ALL: Names = tuple(each.name for each in PASSES)
"""The fusing passes of a compile that switches none off and adds none."""

CAPTURE = "capture"
PHASES = specialise.PHASE_NAMES
LOWER = "lower"


@dataclass(frozen=True)
class Step:
    """One step; ``name`` is a pass, ``capture`` or a phase."""

    number: int
    stage: str
    name: str

    @property
    def label(self) -> str:
        """``007_fuse_rope``: how the step's files begin."""
        stage = "" if self.stage == self.name else f"_{self.name}"
        return f"{self.number:03d}_{self.stage}{stage}"


def step_names(passes: Names = ALL) -> tuple[str, ...]:
    """Every step in order, up to the phases, of a compile whose options choose ``passes``."""
    dealt = (shard.NAME,) if shard.NAME in passes else ()
    fusing = (name for name in passes if name not in dealt)
    return ("capture", *fusing, NAME_OF_PAGING, *dealt, *PHASES)


def known_names(passes: Names = ALL) -> tuple[str, ...]:
    """What may be named: each step, ``specialise``, which makes them, and ``lower``."""
    return (*step_names(passes), specialise.NAME, LOWER)


def step(name: str, passes: Names = ALL) -> Step:
    """The step of that name; one that is not run comes after all that are."""
    names = step_names(passes)
    number = names.index(name) if name in names else len(names)
    stage = CAPTURE if name == CAPTURE else _stage(name)
    return Step(number, stage, name)


def _stage(name: str) -> str:
    return stage_of(specialise.NAME if name in PHASES else name).name


def following(name: str, passes: Names = ALL) -> tuple[str, ...]:
    """The steps that start from the program that ``name`` left."""
    names = step_names(passes)
    if name not in names or name in PHASES:
        return ()
    place = names.index(name)
    return PHASES if names[place + 1] in PHASES else (names[place + 1],)


def plan_step(phase: str, passes: Names = ALL) -> Step:
    """The step in which a phase is lowered."""
    return Step(len(step_names(passes)) + PHASES.index(phase), LOWER, phase)
