"""Decode and prefill of a model: Hugging Face's contenders and ours, held against each other."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from bench.gpu import gpu_ours, gpu_peers
from bench.gpu.gpu_models import Bench
from bench.gpu.gpu_peers import MODES, Plan
from bench.gpu.gpu_results import Results, clean
from bench.gpu.gpu_timing import Peak
from bench.models import BenchModel
from glmc_runtime.format.phases import DECODE
from glmc_runtime.generate.session import Session

CONTEXT = 1024
PREFILL = {"9b": (2048, 8192), "air": (2048, 8192)}
# Relative error of logits between two bfloat16 computations of one random model. A router of a
# random model often stands between two experts, and each choice that tips over moves the logits.
AGREE = {"9b": 0.1, "air": 0.3}
# Seconds that a measurement needs at least, so that it is left out and not killed half done.
NEEDS = {"eager": 15.0, "compile": 90.0, "max-autotune": 150.0}


def context_of(quick: bool) -> int:
    return 96 if quick else CONTEXT


def plan_of(batch: int, quick: bool) -> Plan:
    if quick:
        return Plan(batch, context_of(quick), repeats=2, steps=2, warm=2)
    return Plan(batch, CONTEXT)


def prefill_sizes(model: BenchModel, quick: bool) -> tuple[int, ...]:
    return (32, 64) if quick else PREFILL[model.key]


def make_session(bench: Bench, batches: tuple[int, ...], quick: bool) -> Session:
    """One session for decode, prefill and stages; its context is the default of a compile."""
    sizes = prefill_sizes(bench.model, quick)
    context = 256 if quick else 8448
    largest = max(batches)
    return bench.session(
        decode=batches,
        prefill=sizes,
        max_context=context,
        kv_tokens=max(largest * (context_of(quick) + 64), 2 * sizes[-1]),
        block_size=32 if quick else 128,
    )


def hugging_face(
    results: Results,
    bench: Bench,
    peers: list[str],
    batches: tuple[int, ...],
    eager: dict[int, Tensor] | None = None,
) -> dict[int, Tensor]:
    """Measure the peers at each batch; the logits of eager's first step, by batch, with which the
    others' are compared."""
    model = bench.model
    first = dict(eager or {})
    for peer in [peer for peer in MODES if peer in peers]:
        for batch in batches:
            plan = plan_of(batch, results.quick)
            name = f"{model.key} decode {batch} {peer}"

            def work(peer: str = peer, plan: Plan = plan) -> Any:
                try:
                    return gpu_peers.decode(model, bench.hugging_face, peer, plan)
                except torch.OutOfMemoryError:
                    # A limit of the peer, which copies the weights of all chosen experts.
                    return "out of memory"

            measured = results.attempt(name, work, 0.0 if results.quick else NEEDS[peer])
            if measured is None:
                gpu_peers.cleared()
                continue
            if measured == "out of memory":
                results.leave_out(name, measured)
                continue
            results.time(
                measured["times"],
                model=model.key,
                what="decode",
                peer=peer,
                size=batch,
                read=model.step_bytes(batch, plan.context),
                context=plan.context,
                **measured["more"],
            )
            if peer == "eager":
                first[batch] = measured["logits"]
            elif batch in first:
                agreement(results, model, f"{name} against eager", measured["logits"], first[batch])
    return first


def ours(
    results: Results,
    bench: Bench,
    session: Session,
    batches: tuple[int, ...],
    eager: dict[int, Tensor],
) -> None:
    """Measure ours at each batch, hold its logits against eager's, and a replay against calls."""
    for batch in batches:
        results.attempt(
            f"{bench.model.key} decode {batch} glmc",
            lambda batch=batch: _ours(results, bench, session, batch, eager.get(batch)),
        )


def _ours(
    results: Results, bench: Bench, session: Session, batch: int, eager: Tensor | None
) -> None:
    model, plan = bench.model, plan_of(batch, results.quick)
    peak = Peak(session.device)
    sequences = gpu_ours.filled(model, session, batch, plan.first)
    ids = gpu_peers.random_ids(model, (plan.total, batch, 1), torch.device("cpu"))
    started = time.perf_counter()
    ready = gpu_ours.prepared(session, sequences, ids[0].flatten().tolist())
    first = time.perf_counter() - started
    name = f"{model.key} decode {batch}"
    logits, routed = gpu_ours.traced_logits(session, ready)
    bitwise(results, f"{name}: replay against the plan call by call", ready.logits, logits)
    if eager is not None:
        agreement(results, model, f"{name} glmc against eager", ready.logits, eager)
    experts = gpu_ours.distinct_experts(routed)
    common: dict[str, Any] = {
        "model": model.key,
        "what": "decode",
        "size": batch,
        "read": model.step_bytes(batch, plan.context),
        "context": plan.context,
    }
    if experts is not None:
        expected = model.expected_experts(batch)
        read = model.step_bytes_read(batch, plan.context, experts)
        floor = results.machine.seconds(read) * 1e3
        common |= {"experts_read": experts, "experts_expected": expected, "floor_read_ms": floor}
    replayed = gpu_ours.replay_times(session, ready, plan)
    results.time(replayed, peer="glmc replay", **common)
    times = gpu_ours.session_times(model, session, sequences, plan)
    results.time(times, peer="glmc session", **common)
    for sequence in sequences:
        session.truncate(sequence, plan.first)
    times = gpu_ours.greedy_times(session, sequences, plan)
    results.time(
        times,
        peer="glmc",
        first_s=first,
        peak_gib=bench.session_gib + (peak.gib or 0.0),
        compile_s=bench.compile_seconds,
        load_s=bench.load_seconds,
        calls=len(session.artifact.plans[DECODE.key].calls),
        **common,
    )
    gpu_ours.released(session, sequences)


def prefill(results: Results, bench: Bench, session: Session | None, peers: list[str]) -> None:
    """Seconds to the first logits, eager's and ours."""
    model, repeats = bench.model, 2 if results.quick else 5
    for tokens in prefill_sizes(model, results.quick):
        work = {
            "eager": lambda tokens=tokens: gpu_peers.prefill(
                model, bench.hugging_face, tokens, repeats
            )
        }
        if session is not None:
            work["glmc"] = lambda tokens=tokens: gpu_ours.prefill(model, session, tokens, repeats)
        for peer in [peer for peer in work if peer in peers]:
            measured = results.attempt(f"{model.key} prefill {tokens} {peer}", work[peer])
            if measured is not None:
                results.time(
                    measured["times"],
                    model=model.key,
                    what="prefill",
                    peer=peer,
                    size=tokens,
                    read=model.weight_bytes(tokens),
                    operations=model.prefill_operations(tokens),
                    **measured["more"],
                )


def long_context(results: Results, bench: Bench, contexts: tuple[int, ...]) -> None:
    """Decode of one sequence far into a long context, in a session of its own for each."""
    model = bench.model
    for context in contexts:
        plan = Plan(1, context, *((2, 2, 2) if results.quick else (3, 20, 6)))
        clean()
        session = bench.session(
            decode=(1,),
            prefill=(512,) if not results.quick else (32,),
            max_context=plan.first + plan.total + 64,
            kv_tokens=plan.first + plan.total + 64,
            block_size=32 if results.quick else 128,
        )
        sequences = gpu_ours.filled(model, session, 1, plan.first)
        ready = gpu_ours.prepared(session, sequences, [5])
        common: dict[str, Any] = {
            "model": model.key,
            "what": "long",
            "size": context,
            "read": model.step_bytes(1, context),
            "context": context,
        }
        times = gpu_ours.replay_times(session, ready, plan)
        results.time(times, peer="glmc replay", **common)
        times = gpu_ours.greedy_times(session, sequences, plan)
        results.time(times, peer="glmc", peak_gib=bench.session_gib, **common)
        del session, sequences, ready


def agreement(
    results: Results, model: BenchModel, name: str, logits: Tensor, other: Tensor
) -> None:
    """The median over rows of the relative error is below what bfloat16 explains."""
    logits, other = logits.float().cpu(), other.float().cpu()
    error = ((logits - other).norm(dim=-1) / other.norm(dim=-1)).median()
    limit = AGREE[model.key]
    results.check(name, float(error) <= limit, relative_error=float(error), limit=limit)


def bitwise(results: Results, name: str, logits: Tensor, other: Tensor) -> None:
    """Both have the same bits (NaN, which no model gives, would differ)."""
    differing = int((logits != other).sum())
    largest = float((logits.float() - other.float()).abs().max())
    results.check(name, differing == 0, differing=differing, of=logits.numel(), largest=largest)
