"""The road of a program as dumps count it: a number, a stage and a name for each step."""

from __future__ import annotations

from dataclasses import dataclass

from glmc import pipeline
from glmc.passes import specialise
from glmc.passes.kv_cache import KvCache

PHASES = ("prefill", "decode")
LOWER = "lower"
_STAGES = {"capture": "capture", "canonical": "normal", "clean": "normal", "kv_cache": "page"}


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


def step_names() -> tuple[str, ...]:
    """Every step of the pipeline in order, up to the two phases."""
    passes = (each.name for each in (*pipeline.PASSES, KvCache()))
    return ("capture", *passes, *PHASES)


def known_names() -> tuple[str, ...]:
    """What may be named: each step, ``specialise``, which makes both phases, and ``lower``."""
    return (*step_names(), specialise.NAME, LOWER)


def step(name: str) -> Step:
    """The step of that name; one that is not on the page comes after all that are."""
    names = step_names()
    number = names.index(name) if name in names else len(names)
    return Step(number, "phase" if name in PHASES else _STAGES.get(name, "fuse"), name)


def following(name: str) -> tuple[str, ...]:
    """The steps that start from the program that ``name`` left."""
    names = step_names()
    if name not in names or name in PHASES:
        return ()
    place = names.index(name)
    return PHASES if names[place + 1] in PHASES else (names[place + 1],)


def plan_step(phase: str) -> Step:
    """The step in which a phase is lowered."""
    return Step(len(step_names()) + PHASES.index(phase), LOWER, phase)
