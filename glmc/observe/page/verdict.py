"""The verdict of a compile in words: match counts, near misses, proof, and what would prove it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from glmc.config import DEFAULT_PROFILE
from glmc.observe.dump.stages import ALL
from glmc.observe.history.record import History, StepHistory
from glmc.observe.page.artifact import ArtifactFacts
from glmc.passes.specialise import PHASE_NAMES
from glmc.pipeline.stages import FUSE, NORMAL
from glmc.presets.catalog import preset_names

_NARROW = "narrow"
_CHOSEN = (NORMAL.name, FUSE.name)
"""The stages whose passes a user can switch off and add to."""


@dataclass(frozen=True)
class Verdict:
    """``differing`` are passes with another number of matches than expected; ``counted`` says
    whether numbers are known at all. ``proved`` of ``provable`` steps have a verdict, and
    ``tensors`` says on what."""

    differing: tuple[str, ...]
    counted: bool
    near_misses: int
    proved: int
    provable: int
    command: str
    tensors: str

    @property
    def counts(self) -> str:
        """Matches and near misses as a sentence."""
        if self.differing:
            names = ", ".join(self.differing)
            text = f"The number of matches differs from what the model must have in {names}"
        elif self.counted:
            text = "Every pass matched as often as the model must have it"
        else:
            text = "No match counts are known for this model"
        misses = self.near_misses
        return f"{text}; {misses or 'no'} near miss{'' if misses == 1 else 'es'}."

    @property
    def proof(self) -> str:
        """What was proved, as a sentence."""
        if not self.proved:
            return "Not proved on real tensors."
        if self.proved < self.provable:
            return f"{self.proved} of {self.provable} steps were proved {self.tensors}."
        return f"All {self.provable} steps were proved {self.tensors}."

    @property
    def is_proved(self) -> bool:
        return 0 < self.proved == self.provable


def verdict_of(history: History, facts: ArtifactFacts | None) -> Verdict:
    """The verdict; a proof that failed leaves no history, so that what has a verdict holds."""
    counted = [step for step in history.steps if step.expected is not None]
    differing = [step.name for step in counted if step.expected != len(step.matches)]
    provable = [step for step in history.steps if rewrites(step)]
    return Verdict(
        differing=(*differing, *lost(history)),
        counted=bool(counted),
        near_misses=sum(len(step.near_misses) for step in history.steps),
        proved=sum(step.verdict is not None for step in provable),
        provable=len(provable),
        command=proving_command(history, facts),
        tensors="on real tensors" + (", one layer of each kind" if _in_parts(history) else ""),
    )


def _in_parts(history: History) -> bool:
    """Whether parts of a big model stood for it; their verdicts begin with the part's label."""
    return any((step.verdict or "").startswith(_NARROW) for step in history.steps)


def rewrites(step: StepHistory) -> bool:
    """Whether a step changes the program, and so can be proved."""
    return step.numerics is not None or is_phase(step)


def is_phase(step: StepHistory) -> bool:
    """Whether a step is a phase: all of them are made by one pass."""
    return step.name in PHASE_NAMES


def lost(history: History) -> list[str]:
    """Passes of which matches are expected and which this pipeline does not run."""
    ran = {step.name for step in history.steps}
    phases = any(step.phase in PHASE_NAMES for step in history.steps)
    return [
        name
        for name, wanted in history.expected_matches.items()
        if wanted and name not in ran and not (name == "specialise" and phases)
    ]


def proving_command(history: History, facts: ArtifactFacts | None) -> str:
    """The command that compiles once more and proves each step. A checkpoint goes by its name: the
    history does not know where it is stored."""
    preset = history.model in preset_names()
    words = ["glmc", "compile", history.model if preset else f"PATH/{history.model}"]
    if history.target:
        words += ["--target", history.target]
    if facts is not None:
        words += ["--dtype", facts.dtype]
        if facts.abi_profile not in (None, DEFAULT_PROFILE):
            words += ["--abi-profile", str(facts.abi_profile)]
    ran = [step.name for step in history.steps if step.stage in _CHOSEN]
    words += [word for name in ALL if name not in ran for word in ("--passes-off", name)]
    words += [word for name in ran if name not in ALL for word in ("--passes-on", name)]
    if preset:
        words.append("--no-weights")
    return shlex.join([*words, "--verify", "--dump", "DIR"])
