"""glmc's decode and prefill on the device: the greedy loop, a session's step, the bare replay."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.gpu.gpu_peers import Plan, random_ids, random_rows
from bench.gpu.gpu_timing import Thunk, device_times, host_times, wait
from bench.models import BenchModel
from glmc_runtime.engine.block_allocation import reserve
from glmc_runtime.engine.packing import micro_batches_of, step_of
from glmc_runtime.engine.sequences import Sequence, SequenceStep, scheduled_tokens
from glmc_runtime.format.dependence import Symbols
from glmc_runtime.format.phases import DECODE
from glmc_runtime.generate.session import Session
from glmc_runtime.replay.bound_step import Part
from glmc_runtime.replay.step import Step, blocks_for


@torch.no_grad()
def filled(model: BenchModel, session: Session, batch: int, context: int) -> list[Sequence]:
    """Sequences of random tokens whose cache holds the rows that the peers have."""
    size = session.manifest.cache.block_size
    count = blocks_for(context, size)
    ids = random_ids(model, (batch, context), torch.device("cpu")).tolist()
    sequences = []
    for tokens in ids:
        sequence = session.sequence(tokens)
        sequence.blocks = session.cache.allocator.allocate(count)
        sequence.cached = context
        sequences.append(sequence)
    blocks = torch.tensor([block for sequence in sequences for block in sequence.blocks])
    blocks = blocks.to(session.device)
    layout = session.manifest.cache.layout
    for layer in range(model.layers):
        rows = random_rows(model, layer, batch, context, session.device)
        for name, row in zip(("key", "value"), rows, strict=True):
            padded = torch.nn.functional.pad(row, (0, 0, 0, count * size - context))
            paged = padded.unflatten(2, (count, size)).transpose(1, 2).flatten(0, 1)
            if layout == "blocks_tokens_heads":
                paged = paged.transpose(1, 2)
            session.cache.tensor(name, layer).index_copy_(0, blocks, paged)
    return sequences


def released(session: Session, sequences: list[Sequence]) -> None:
    for sequence in sequences:
        session.release(sequence)


@dataclass(frozen=True)
class Prepared:
    """One decode step with its inputs in place: what it runs, its step and its logits."""

    thunks: tuple[Thunk, ...]
    step: Step
    logits: Tensor

    @property
    def symbols(self) -> Symbols:
        return Symbols(self.step.sizes, self.step.real)


@torch.inference_mode()
def prepared(session: Session, sequences: list[Sequence], tokens: list[int]) -> Prepared:
    """Run the step that decodes ``tokens`` and give what it was made of.

    The sequences do not change; their next token's keys and values are written, so the step can be
    repeated as often as wanted and always computes the same.
    """
    vocabulary = session.manifest.model.vocabulary
    parts = [
        SequenceStep(sequence, (token,)) for sequence, token in zip(sequences, tokens, strict=True)
    ]
    chunks = [scheduled_tokens(part, session.max_context, vocabulary) for part in parts]
    reserve(session.cache, chunks)
    buckets = session.prefill_buckets, session.decode_buckets
    (micro_batch,) = micro_batches_of(chunks, *buckets)
    phase, step = step_of(micro_batch, *buckets, session.manifest.cache.block_size)
    assert phase == DECODE.key, phase
    replay = session._replays[DECODE.key]
    logits = replay.run(step).clone()
    return Prepared(tuple(replay._bound(step).thunks[Part.WHOLE]), step, logits)


@torch.inference_mode()
def traced_logits(session: Session, ready: Prepared) -> tuple[Tensor, list[Tensor]]:
    """The same step call by call, without a device graph: its logits, and the ids that each router
    chose, [tokens, top_k]."""
    replay = session._replays[DECODE.key]
    routed = []
    for call, arguments in replay.trace(ready.step):
        if "ids" in call.writes:
            routed.append(arguments["ids"][: ready.symbols.real["tokens"]].clone())
    return replay._bound(ready.step).logits.clone(), routed


def distinct_experts(routed: list[Tensor]) -> float | None:
    """Distinct experts per layer, averaged over the layers that have a router."""
    if not routed:
        return None
    return sum(len(ids.unique()) for ids in routed) / len(routed)


@torch.inference_mode()
def replay_times(session: Session, ready: Prepared, plan: Plan) -> list[float]:
    """Milliseconds of the bare replay, as often as told, by the device's clock."""

    def replay() -> None:
        for thunk in ready.thunks:
            thunk()

    return device_times(replay, session.device, plan.repeats, plan.steps)


def session_times(
    model: BenchModel, session: Session, sequences: list[Sequence], plan: Plan
) -> list[float]:
    """Milliseconds of ``session.decode`` fed with random ids; its logits stay on the device."""
    device = torch.device("cpu")
    ids = iter(random_ids(model, (plan.total, len(sequences)), device).tolist())

    def step() -> None:
        session.decode(sequences, next(ids))

    for _ in range(plan.warm):
        step()
    return host_times(step, session.device, plan.repeats, plan.steps)


def first_tokens(session: Session, batch: int) -> list[int]:
    """Another token for each sequence of a decode step."""
    vocabulary = session.manifest.model.vocabulary
    return [(7 * row + 11) % vocabulary for row in range(batch)]


def greedy_times(session: Session, sequences: list[Sequence], plan: Plan) -> list[float]:
    """Milliseconds of the loop that runs a step ahead; every token is read by the host."""
    first = first_tokens(session, len(sequences))
    if not session.greedy:
        return _argmax_times(session, sequences, first, plan)
    with session.greedy_steps(sequences, first) as steps:
        for _ in range(plan.warm):
            steps.step()
        return host_times(steps.step, session.device, plan.repeats, plan.steps)


def _argmax_times(
    session: Session, sequences: list[Sequence], first: list[int], plan: Plan
) -> list[float]:
    """For a target that does not compute greedy tokens, such as cpu."""
    tokens = first

    def step() -> None:
        nonlocal tokens
        tokens = session.decode(sequences, tokens).argmax(-1).tolist()

    for _ in range(plan.warm):
        step()
    return host_times(step, session.device, plan.repeats, plan.steps)


def prefill(model: BenchModel, session: Session, tokens: int, repeats: int) -> dict[str, Any]:
    """Prefill of one prompt to the logits of its last token, blocks given back each time."""
    (ids,) = random_ids(model, (1, tokens), torch.device("cpu")).tolist()

    def step() -> None:
        sequence = session.sequence(ids)
        logits = session.prefill([sequence])
        session.release(sequence)
        del logits

    started = time.perf_counter()
    step()
    wait(session.device)
    first = time.perf_counter() - started
    step()
    return {
        "times": host_times(step, session.device, repeats, 1),
        "more": {"first_s": first},
    }
