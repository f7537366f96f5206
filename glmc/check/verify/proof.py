"""The proof of one compile: what is verified, with which inputs and weights, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch

from glmc.check.verify.cases import real_prompts, small_activations
from glmc.check.verify.replay import NAME, Reference, verify_replay
from glmc.check.verify.scope import VerifiedPart, full_width, is_whole, narrow, whole
from glmc.check.verify.verdict import require_verdict
from glmc.check.verify.verifier import Verifier
from glmc.check.verify.weights import ModelWeights
from glmc.compiled import Compiled, FrontEnd
from glmc.compiler import back_end, front_end
from glmc.errors import InternalError
from glmc.ir.program import Program
from glmc.ir.threads import one_thread
from glmc.job import Job
from glmc.observe.events import JobBegun, PlanMade
from glmc.passes import specialise
from glmc.passes.specialise import PHASE_NAMES
from glmc.pipeline.events import Event, StepDone

SMALL_BLOCK = 16
"""Tokens of a block of the cache in float32, so that a sequence has several."""
SCOPE = "verified"


@dataclass(frozen=True)
class Part:
    """What was compiled beside the compile itself, and verified."""

    label: str
    scope: VerifiedPart
    verifier: Verifier
    front: FrontEnd


@dataclass
class Proof:
    """Hears a compile. Raises VerificationError for the first class that is violated.

    A small model is verified whole, as it is compiled. Of a big one, one layer of each kind is
    compiled beside it: narrow for all cases and the replay, and at full width for a few tokens.
    All is also done in float32, where the bounds are the tightest. ``tell`` is called with each
    step and its verdict, as soon as it is known.
    """

    job: Job
    verdicts: dict[str, str] = field(default_factory=dict)
    tell: Callable[[str, str], None] = lambda name, text: None
    _parts: list[Part] = field(default_factory=list)
    _compiling: Verifier | None = None
    _whole: list[tuple[Job, Verifier]] = field(default_factory=list)

    def observe(self, event: Event) -> None:
        """Verify what there is to verify, or repeat what is known of it."""
        match event:
            case JobBegun():
                self._prepare()
            case StepDone():
                self._verify(event)
            case PlanMade(compiled, verdicts):
                verdicts.update(self._plan(compiled))

    def proved(self) -> Iterator[str]:
        """The steps of the graphs of the whole model that were proved. Of a part of the model
        nothing is said, nor of a replay, which depends on the machine as well."""
        for job, verifier in self._whole:
            for name, verdict in verifier.verdicts.items():
                if verdict.holds:
                    yield step_of(job, name)

    def _prepare(self) -> None:
        """Verify what is compiled beside the compile: float32, and the parts of a big model."""
        source, dtype = self.job.source, self.job.dtype
        if is_whole(source):
            scope = whole(self.job, dtype)
            self._compiling = _verifier(scope)
            self._whole.append((self.job, self._compiling))
            self._say(SCOPE, scope.text)
            self._compile("float32", replace(scope, dtype=torch.float32))
            return
        scope, full = narrow(source, torch.float32), full_width(source, dtype)
        self._say(SCOPE, f"{full.text}; {scope.text}")
        self._compile("narrow, float32", scope)
        if dtype is not torch.float32:
            self._compile("narrow", replace(scope, dtype=dtype))
        self._compile("full width", full)

    def _verify(self, event: StepDone) -> None:
        try:
            if self._compiling is not None:
                with one_thread():
                    self._compiling.observe(event)
        finally:
            self._report(event.name)

    def _plan(self, compiled: Compiled) -> Mapping[str, str]:
        """Replay; the verdicts by step, and of the pass that makes the phases, for the report."""
        with one_thread():
            self._replay(compiled)
        both = (f"{name} {self.verdicts[name]}" for name in PHASE_NAMES if name in self.verdicts)
        return {**self.verdicts, specialise.NAME: "; ".join(both)}

    def _compile(self, label: str, scope: VerifiedPart) -> None:
        size = self.job.options.block_size
        exact = scope.dtype is torch.float32
        job = scope.job(self.job, min(size, SMALL_BLOCK) if exact else size)
        verifier = _verifier(scope)
        if is_whole(self.job.source):
            self._whole.append((job, verifier))
        with one_thread() if label != "full width" else nullcontext():
            front = front_end(job, verifier)
        self._parts.append(Part(label, scope, verifier, front))

    def _report(self, name: str) -> None:
        verifiers = [] if self._compiling is None else [("", self._compiling)]
        verifiers += [(f"{part.label}: ", part.verifier) for part in self._parts]
        texts: list[str] = []
        for label, verifier in verifiers:
            if name in verifier.verdicts:
                text = verifier.verdicts[name].text
                texts.append(label + ("the same" if texts and texts[0].endswith(text) else text))
        if texts:
            self._say(name, "; ".join(texts))

    def _say(self, name: str, text: str) -> None:
        self.verdicts[name] = text
        self.tell(name, text)

    def _replay(self, compiled: Compiled) -> None:
        """In float32 with the weights as they are and with small activations, then in the dtype."""
        exact = self._parts[0]
        weights, texts = exact.scope.weights, real_prompts(exact.scope.source.directory)
        runs: list[tuple[Compiled, Verifier, ModelWeights, str]] = []
        if torch.float32 in compiled.job.target.dtypes:
            plan = back_end(exact.front, exact.front.job)
            quieter = weights.altered(small_activations)
            runs.append((plan, exact.verifier, weights, ""))
            runs.append((plan, exact.verifier, quieter, "small activations"))
        if self._compiling is not None:
            runs.append((compiled, self._compiling, weights, ""))
        elif self.job.dtype is not torch.float32:
            small = self._parts[1]
            plan = back_end(small.front, small.front.job)
            runs.append((plan, small.verifier, weights, ""))
        said: dict[str, dict[str, None]] = {}
        label = "" if self._compiling is not None else "narrow: "
        for plan, verifier, used, special in runs:
            reference = Reference(_captured(verifier), _captured(exact.verifier), used)
            verdict = verify_replay(plan, reference, texts, special)
            what, _, result = verdict.text.partition(": ")
            said.setdefault(what, {})[result] = None
            each = (f"{label}{what}: {'; '.join(results)}" for what, results in said.items())
            self.verdicts[NAME] = "; ".join(each)
            require_verdict(verdict)
        self.tell(NAME, self.verdicts[NAME])


def step_of(job: Job, name: str) -> str:
    """A step of the graphs that a job has: of any two that agree on it the proof is the same."""
    dtype = str(job.dtype).removeprefix("torch.")
    return f"{name} in {dtype}, blocks of {job.options.block_size}"


def _verifier(scope: VerifiedPart) -> Verifier:
    return Verifier(scope.cases, scope.weights, layers=scope.layers)


def _captured(verifier: Verifier) -> Program:
    if verifier.captured is None:
        raise InternalError("a plan was made of a program that was never captured")
    return verifier.captured
