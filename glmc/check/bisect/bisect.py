"""From a model that comes out wrong, or does not come out, to the first rewrite that is to blame.

The steps are proved one by one as ``--verify`` does, first in float32, where bounds are tightest,
then in the dtype of the compile. The first that fails is cut down: to its first wrong rewrite, on
the shortest input that shows it, with drawn in place of recorded numbers where they show it too.
Where all hold, the plan is replayed call by call (replayed.py).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field

import torch

from glmc.check.bisect import inputs as drawing
from glmc.check.bisect.crash import anchor_of, crash_repro, smallest
from glmc.check.bisect.evidence import Counterexample
from glmc.check.bisect.finding import BisectResult
from glmc.check.bisect.replayed import REPLAYED, WrongCall, wrong_call
from glmc.check.bisect.repro import repro
from glmc.check.bisect.search import first_node, first_rewrite
from glmc.check.bisect.steps import EACH_CALL, LOWERING, Steps, Tell
from glmc.check.bisect.whole import call_repro, fewest_layers, verified_repro, whole_repro
from glmc.check.verify.cases import real_prompts
from glmc.check.verify.proof import SMALL_BLOCK, step_of
from glmc.check.verify.proved import proved_steps
from glmc.check.verify.replay import NAME as REPLAYED_PLAN
from glmc.check.verify.replay import Reference, verify_replay
from glmc.check.verify.scope import is_whole, model_cases, model_weights
from glmc.check.verify.verdict import Verdict
from glmc.check.verify.verifier import Verifier
from glmc.compiled import FrontEnd
from glmc.compiler import back_end, front_end
from glmc.config import CompileOptions
from glmc.errors import (
    AbiError,
    CheckpointError,
    ConfigError,
    InternalError,
    MatchCountError,
    UsageError,
)
from glmc.garbage import rare_collections
from glmc.ir.program import Program
from glmc.ir.threads import one_thread
from glmc.job import Job, resolve
from glmc.passes import shard
from glmc.passes.base import Pass
from glmc.passes.kv_cache import KvCache
from glmc.pipeline.events import Event, StepDone
from glmc.presets.catalog import ModelSource
from glmc_runtime.command.out_of_memory import shortage_behind

# What the user must mend; there is nothing to bisect.
_NOT_OURS = (UsageError, ConfigError, CheckpointError, AbiError, MatchCountError)
MARKER = "# Written by glmc bisect."
PROVED = "proved by --verify before"


class _Violated(Exception):  # noqa: N818 - ends the compile at the step that was found
    def __init__(self, name: str, before: Program, after: Program, verdict: Verdict) -> None:
        super().__init__(name)
        self.name, self.before, self.after, self.verdict = name, before, after, verdict


@dataclass
class _Hunt:
    """Hears a compile; raises _Violated at the first step that changes a value."""

    job: Job
    verifier: Verifier
    steps: Steps
    names: list[str] = field(default_factory=list)
    last: Program | None = None

    def observe(self, event: Event) -> None:
        self.verifier.observe(event)
        if isinstance(event, StepDone):
            self._judge(event.name, event.program)

    def _judge(self, name: str, program: Program) -> None:
        before = self.last
        verdict = self.verifier.verdicts.get(name)
        dtype = str(self.job.options.dtype)
        if verdict is not None:
            self.steps.done(dtype, name, verdict.text)
        elif name in self.verifier.proved:
            self.steps.done(dtype, name, PROVED)
        if verdict is not None and not verdict.holds and before is not None:
            raise _Violated(name, before, program.copy(), verdict)
        self.names.append(name)
        self.last = self.verifier.last


def bisect(
    source: ModelSource,
    options: CompileOptions,
    tell: Tell = lambda step, text: None,
    *,
    skip_proved: bool = False,
) -> BisectResult | None:
    """The first step, rewrite and nodes that are wrong, or the first kernel call; None when all of
    them are right.

    ``tell`` hears each step with its verdict. With ``skip_proved`` what ``--verify`` has proved
    before of the graphs of the same model, sources and options is not proved again; the plan is
    replayed always. Errors that the user must mend (options, config, checkpoint, lost fusions) are
    raised as a compile raises them.
    """
    job = resolve(source, options)
    known = proved_steps(job) if skip_proved else frozenset()
    with one_thread() if is_whole(source) else nullcontext(), rare_collections():
        return _bisect(job, tell, known)


def _bisect(job: Job, tell: Tell, known: frozenset[str]) -> BisectResult | None:
    jobs, replayed = _both_dtypes(job), job.options.target in REPLAYED
    steps = Steps(jobs, replayed, tell)
    proved: list[Proved] = []
    for each in jobs:
        result = _graph(each, steps, known)
        if isinstance(result, BisectResult):
            return result
        proved.append(result)
    first, last = proved[0], proved[-1]
    try:
        # In float32 the blocks of what was proved are smaller than those of the plan.
        front = last.front if last.front.job.front == job.front else front_end(job)
        compiled = back_end(front, job)
    except _NOT_OURS:
        raise
    except Exception as error:  # whatever it is, it is what is looked for, but for lack of memory
        if shortage_behind(error) is not None:
            raise
        return _elsewhere(job, LOWERING, error)
    own = str(jobs[-1].options.dtype)
    made = "made" if replayed else f"made; {job.options.target} can't be replayed on every machine"
    steps.done(own, LOWERING, made)
    if not replayed:
        return None
    wrong = wrong_call(job.source, job.options, first.front)
    steps.done("float32", EACH_CALL, "computes its node" if wrong is None else str(wrong))
    if wrong is not None:
        return _miscomputed(job, wrong)
    reference = Reference(last.captured, first.captured, model_weights(job))
    verdict = verify_replay(compiled, reference, real_prompts(job.source.directory))
    steps.done(own, REPLAYED_PLAN, verdict.text)
    return None if verdict.holds else _unplaced(job, verdict)


def _unplaced(job: Job, verdict: Verdict) -> BisectResult:
    """The plan as it is goes wrong, though no call of the small one in float32 does."""
    what = (
        f"{verdict.text}. In float32, at one small bucket, every call computes its node: what is "
        "wrong depends on the dtype, the bucket or the block size."
    )
    title = _title(job, verdict.pass_name, None, what)
    return BisectResult(verdict.pass_name, what, verified_repro(title, job.source, job.options))


def _miscomputed(job: Job, wrong: WrongCall) -> BisectResult:
    step = f"{wrong.name}, called for {wrong.node}"
    what = f"{wrong}. Every pass is right: it is the kernel, what it is given, or the memory plan."
    title = _title(job, step, None, what)
    text = call_repro(title, job.source, job.options, wrong)
    return BisectResult(step, what, text, None, wrong.node, wrong.layer)


def _both_dtypes(job: Job) -> tuple[Job, ...]:
    exact = job.variant(dtype=torch.float32, block_size=SMALL_BLOCK)
    return (exact,) if job.dtype is torch.float32 else (exact, job.variant())


@dataclass(frozen=True)
class Proved:
    """What was captured, and what all of its passes made."""

    captured: Program
    front: FrontEnd


def _graph(job: Job, steps: Steps, known: frozenset[str]) -> BisectResult | Proved:
    before = {name for name in steps.names if step_of(job, name) in known}
    verifier = Verifier(model_cases(job.source), model_weights(job), strict=False, proved=before)
    hunt = _Hunt(job, verifier, steps)
    try:
        front = front_end(job, hunt)
    except _NOT_OURS:
        raise
    except _Violated as wrong:
        return _violated(wrong, hunt)
    except Exception as error:  # whatever it is, it is what is looked for, but for lack of memory
        if shortage_behind(error) is not None:
            raise
        return _crashed(hunt, error)
    if verifier.captured is None:
        raise InternalError("the passes ran on a program that was never captured")
    return Proved(verifier.captured, front)


def _violated(wrong: _Violated, hunt: _Hunt) -> BisectResult:
    job, verifier, verdict = hunt.job, hunt.verifier, wrong.verdict
    evidence: Counterexample
    before, after = wrong.before, wrong.after
    alike = (before.phase, before.ranks) == (after.phase, after.ranks)
    if alike and wrong.name != shard.NAME:
        evidence = first_rewrite(before, after, verdict, verifier.cases, verifier.weights)
    else:
        evidence = first_node(verdict)
    first = verdict.violations[0]
    inputs = drawing.choose(evidence)
    shown = evidence.deviation(drawing.values_of(inputs))
    what = (
        f"{first.node} is off by {shown.error:.3g} where {shown.bound:.3g} is allowed "
        f"({verdict.numerics}, {job.options.dtype}, on: {evidence.case})."
    )
    title = _title(job, wrong.name, first.match, what)
    text = repro(title, f"{wrong.name}, {first.node}", evidence, inputs, before, after)
    size = len(evidence.after.calls) + (len(evidence.before.calls) if evidence.before else 0)
    return BisectResult(
        wrong.name, what, text, first.match, first.node, first.layer, first.source, size
    )


def _crashed(hunt: _Hunt, error: Exception) -> BisectResult:
    job, failing = hunt.job, _following(hunt.names, hunt.job)
    what = f"It raises {type(error).__name__}: {_first_line(error)}."
    if failing is not None and hunt.last is not None:
        anchor = anchor_of(hunt.last, failing, error)
        piece = smallest(hunt.last, failing, anchor, error)
        if piece is not None:
            title = _title(job, failing.name, anchor, what)
            text = crash_repro(title, piece, failing, repr(job.options), error)
            layer = next(
                (
                    node.meta.get("layer")
                    for node in hunt.last.graph.nodes
                    if node.meta.get("id") == anchor
                ),
                None,
            )
            size = sum(node.op == "call_function" for node in piece.graph.nodes)
            return BisectResult(failing.name, what, text, anchor, anchor, layer, "", size)
    step = failing.name if failing is not None else "capture" if not hunt.names else "specialise"
    return _elsewhere(job, step, error)


def _following(names: list[str], job: Job) -> Pass | None:
    """The pass after the last step that was heard of."""
    dealt = () if job.dealt is None else (job.dealt,)
    order: tuple[Pass, ...] = (*job.selection.passes, KvCache(job.options.block_size), *dealt)
    done = len(names) - 1  # the first step is the capture
    return order[done] if 0 <= done < len(order) else None


def _elsewhere(job: Job, step: str, error: Exception) -> BisectResult:
    what = f"It raises {type(error).__name__}: {_first_line(error)}."
    config = fewest_layers(job.source, job.options, error)
    if config is None:
        raise error
    title = _title(job, step, None, what)
    what += f" A model of {config['num_hidden_layers']} layers is enough."
    return BisectResult(step, what, whole_repro(title, config, job.options, error))


def _title(job: Job, step: str, match: str | None, what: str) -> list[str]:
    where = step if match is None else f"{step}, match {match}"
    return [
        MARKER.removeprefix("# "),
        f"{job.source.name} for {job.options.target}: {where}",
        *what.splitlines(),
    ]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else "no message"
