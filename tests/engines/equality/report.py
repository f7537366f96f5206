"""What was found about one model, and all that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.e2e.judge import Outcome
from tests.engines.equality.result import Result, Subject
from tests.engines.equality.traffic import CHUNK

NOTHING = Outcome(0, 0, 0, 0)
UNABLE = ("Unsupported TP style 'colwise_gather_output' for Transformers backend.",)
"""How an engine ends that can't serve a model without plans: SGLang has no class of its own for
GlmForCausalLM, and its way through transformers does not know this style of its output head."""


@dataclass(frozen=True)
class Row:
    """One model: plans beside Hugging Face, plans beside the engine without them, and that engine
    beside Hugging Face."""

    subject: Subject
    ours: Result
    theirs: Result
    hugging_face: Outcome = NOTHING
    without: Outcome = NOTHING
    engine: Outcome = NOTHING
    where: tuple[str, ...] = ()

    @property
    def unable(self) -> bool:
        """Whether the engine can't serve this model without plans, for a reason that is known."""
        return any(reason in self.theirs.error for reason in UNABLE)

    @property
    def failed(self) -> bool:
        """Whether there is nothing to compare."""
        return bool(self.ours.error or (self.theirs.error and not self.unable))

    @property
    def faults(self) -> list[str]:
        return list(self._faults())

    def _faults(self) -> Iterator[str]:
        if self.ours.error:
            yield f"with plans: {self.ours.error}"
        if self.theirs.error and not self.unable:
            yield f"without plans: {self.theirs.error}"
        if self.failed:
            return
        compared = [("Hugging Face", self.hugging_face)]
        compared += [] if self.unable else [("the engine without plans", self.without)]
        for what, outcome in compared:
            if not outcome.compared:
                yield f"nothing is compared with {what}"
            if outcome.differing:
                yield f"{outcome.differing} tokens are not those of {what}"
                yield from self.where
            if 2 * outcome.left_out > outcome.compared:
                yield f"hardly anything is compared with {what}"
        counts, engine = self.ours.ours, self.ours.engine
        if counts["serves"] != 1:
            yield "the plan does not serve"
        if counts["replays"] != counts["steps"] or not counts["steps"]:
            yield f"{counts['replays']} replays in {counts['steps']} steps"
        if engine.get("steps", counts["steps"]) != counts["steps"]:
            yield f"{counts['steps']} steps of plans in {engine['steps']} of the engine"
        if engine.get("parameters", 0):
            yield "modules of the engine have parameters"
        if len(self.buckets) < 3:
            yield f"few buckets were used: {self.buckets}"
        if not engine["preemptions"]:
            yield "nothing was preempted"
        if not engine["cached"]:
            yield "no prefix was in the cache"
        if all(len(text) <= CHUNK for text in self.subject.texts):
            yield "no prompt came in chunks"

    @property
    def buckets(self) -> dict[str, int]:
        """Replays by phase and bucket."""
        named = {name: value for name, value in self.ours.ours.items() if " " in name}
        return {name: value for name, value in sorted(named.items()) if value}

    def __str__(self) -> str:
        if self.failed:
            return f"{self.subject.name:<24} failed"
        counts, engine = self.ours.ours, self.ours.engine
        used = ", ".join(f"{name}: {value}" for name, value in self.buckets.items())
        return "\n  ".join(
            (
                self.subject.name,
                f"beside Hugging Face:      {self.hugging_face}",
                *self._engine_s_own(),
                f"{counts['steps']} steps, {counts['replays']} replays ({used})",
                f"{engine['preemptions']} preemptions, {engine['cached']} cached tokens",
            )
        )

    def _engine_s_own(self) -> tuple[str, ...]:
        if self.unable:
            return (f"without plans: {self.theirs.error}",)
        return (
            f"beside the engine's own:  {self.without}",
            f"its own and Hugging Face: {self.engine}",
        )
