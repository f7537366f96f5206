"""Ours beside vLLM on one card: both stay up, each row in turn, the ratio of each round.

A decode step of vLLM's is the time between two outputs of its step loop, ours that between two
tokens that the host reads; a first token is one that the host has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.engines.work import unlike_prompts
from bench.gpu import gpu_ours
from bench.gpu.decode_blocks import decode_blocks, rest_before
from bench.gpu.gpu_models import Bench
from bench.gpu.gpu_results import Results, clean
from bench.gpu.gpu_timing import host_times
from bench.gpu.vllm_side import LONG_BATCH, VLLM, Sizes, vllm_side
from bench.models import BenchModel
from bench.processes import Running
from glmc_runtime.generate.session import Session


def beside_vllm(results: Results, bench: Bench, sizes: Sizes, folder: Path) -> None:
    """All rows of a model."""
    model = bench.model
    session = bench.session(
        decode=sizes.batches,
        prefill=tuple(sorted({*sizes.prefills, sizes.most_tokens})),
        max_context=sizes.context + max(*sizes.prefills, 1024),
        kv_tokens=sizes.kv_tokens,
        block_size=32 if results.quick else 128,
        prefill_graphs=True,
    )
    log = results.path.with_name(f"{model.key}.vllm.log")
    with vllm_side(model, sizes, folder, log, results.quick) as side:
        results.data.setdefault("vllm_start_s", {})[model.key] = side.start_s
        ours_start = bench.compile_seconds + bench.load_seconds
        results.data.setdefault("glmc_start_s", {})[model.key] = ours_start
        _rows(results, model, session, side, sizes)
        if sizes.longs or sizes.captured:
            del session  # its cache makes room
            clean()
            results.attempt(
                f"{model.key} without graphs beside vllm",
                lambda: _without_graphs(results, bench, side, sizes),
            )


def _rows(
    results: Results, model: BenchModel, session: Session, side: Running, sizes: Sizes
) -> None:
    """Decode by batch, first tokens by length, and prompts that come together."""
    for batch in sizes.batches:
        results.attempt(
            f"{model.key} decode {batch} beside vllm",
            lambda batch=batch: _decode(results, model, session, side, sizes, batch),
        )
    for tokens in sizes.prefills:
        results.attempt(
            f"{model.key} prefill {tokens} beside vllm",
            lambda tokens=tokens: _prefill(results, model, session, side, sizes, tokens),
        )
    results.attempt(
        f"{model.key} ragged beside vllm",
        lambda: _ragged(results, model, session, side, sizes),
    )


def _without_graphs(results: Results, bench: Bench, side: Running, sizes: Sizes) -> None:
    """First tokens by a session without device graphs of prefill, and decode steps of long
    contexts, for which it is compiled."""
    session = bench.session(
        decode=(LONG_BATCH,),
        prefill=sizes.prefills,
        max_context=max((*sizes.longs, *sizes.prefills)) + 1024,
        kv_tokens=sizes.long_kv_tokens,
        block_size=32 if results.quick else 128,
    )
    for tokens in sizes.captured:
        results.attempt(
            f"{bench.model.key} prefill {tokens} without graphs beside vllm",
            lambda each=tokens: _prefill(
                results, bench.model, session, side, sizes, each, graphs=False
            ),
        )
    for context in sizes.longs:
        of_context = replace(sizes, context=context)
        results.attempt(
            f"{bench.model.key} decode at {context} beside vllm",
            lambda each=of_context: _decode(results, bench.model, session, side, each, LONG_BATCH),
        )


def _decode(
    results: Results,
    model: BenchModel,
    session: Session,
    side: Running,
    sizes: Sizes,
    batch: int,
) -> None:
    rest, context = rest_before(batch, results.quick), sizes.context
    more: dict[str, Any] = {"context": context, "rest_s": rest}
    given = {"batch": batch, "context": context, "steps": sizes.steps, "rest": rest}
    with decode_blocks(model, session, side, **given) as blocks:
        if model.routed:
            first = gpu_ours.first_tokens(session, batch)
            ready = gpu_ours.prepared(session, blocks.sequences, first)
            experts = gpu_ours.distinct_experts(gpu_ours.traced_logits(session, ready)[1])
            more |= {"experts_read": experts, "experts_expected": model.expected_experts(batch)}
        rounds = in_turn(lambda _: blocks.ours(), lambda _: blocks.theirs(), sizes.rounds)
    read = model.step_bytes(batch, sizes.context)
    _keep(results, model, "beside decode", batch, rounds, read=read, **more)


def _prefill(
    results: Results,
    model: BenchModel,
    session: Session,
    side: Running,
    sizes: Sizes,
    tokens: int,
    graphs: bool = True,
) -> None:
    # Prompts of one seed begin alike: those of another length would be in the cache.
    of_length = 10_000 * (2 * tokens + graphs)
    rounds = in_turn(
        lambda seed: _first_token(model, session, (tokens,), seed + of_length),
        lambda seed: float(side.ask("first", length=tokens, seed=seed + of_length)["ms"]),
        sizes.rounds,
    )
    given = {"read": model.weight_bytes(tokens), "operations": model.prefill_operations(tokens)}
    more = {"prefill_graphs": graphs}
    _keep(results, model, "beside prefill", tokens, rounds, **given, **more)


def _ragged(
    results: Results, model: BenchModel, session: Session, side: Running, sizes: Sizes
) -> None:
    lengths = sizes.ragged
    rounds = in_turn(
        lambda seed: _first_token(model, session, lengths, seed),
        lambda seed: float(side.ask("together", lengths=list(lengths), seed=seed)["ms"]),
        sizes.rounds,
    )
    operations = sum(map(model.prefill_operations, lengths))
    given = {"read": model.weight_bytes(sum(lengths)), "operations": operations}
    more = {"prompts": len(lengths), "prefill_graphs": True}
    _keep(results, model, "beside ragged", sum(lengths), rounds, **given, **more)


def _first_token(model: BenchModel, session: Session, lengths: Sequence[int], seed: int) -> float:
    """Milliseconds from prompts, those that vLLM's side has for ``seed``, to the next token of
    each, which the host has."""
    prompts = unlike_prompts(int(model.config["vocab_size"]), seed, lengths)

    def step() -> None:
        sequences = [session.sequence(ids) for ids in prompts]
        session.prefill(sequences).argmax(-1).tolist()
        for sequence in sequences:
            session.release(sequence)

    return host_times(step, session.device, 1, 1)[0]


Round = tuple[float, float]


def in_turn(
    ours: Callable[[int], float], theirs: Callable[[int], float], rounds: int
) -> list[Round]:
    """Both times of each round, ours first; who begins changes, and one round is left out before
    those that count. Each is told a seed that no other round has."""
    found: list[Round] = []
    for number in range(-1, rounds):
        seed = 1000 + number
        if number % 2:
            one = ours(seed)
            other = theirs(seed)
        else:
            other = theirs(seed)
            one = ours(seed)
        if number >= 0:
            found.append((one, other))
    return found


def _keep(
    results: Results,
    model: BenchModel,
    what: str,
    size: int,
    rounds: Sequence[Round],
    **more: Any,
) -> None:
    ratios = sorted(theirs / ours for ours, theirs in rounds)
    common = {"model": model.key, "what": what, "size": size, "bars": not results.quick, **more}
    results.time([theirs for _, theirs in rounds], peer=VLLM, **common)
    ratio = {"ratio": median(ratios), "ratio_low": ratios[0], "ratio_high": ratios[-1]}
    results.time([ours for ours, _ in rounds], peer="glmc", **ratio, **common)
