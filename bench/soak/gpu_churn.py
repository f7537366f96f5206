"""Thousands of replays in which sequences join, leave, fork and shrink; nothing drifts or leaks."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.gpu.gpu_results import Results, clean
from glmc_runtime.engine.sequences import Sequence
from glmc_runtime.generate.session import Session

STEPS = 3000
MOST = 8  # sequences at a time: the largest decode bucket
CROWD, CROWD_QUICK = 256, 12  # of another run, whose number of sequences drifts up to this
DRIFT = 25  # steps after which it is another
LONGEST = 200
PROMPTS = (3, 9, 17, 40)
# Of the logits' deviation: another order of float32 sums, never another context.
TOLERANCE = 2e-3


@dataclass
class _Seen:
    """What happened so far."""

    events: dict[str, int] = field(default_factory=dict)
    compared: int = 0
    worst: float = 0.0

    def count(self, event: str) -> None:
        self.events[event] = self.events.get(event, 0) + 1


def churn(results: Results, name: str, folder: Path, target: str, most: int = MOST) -> None:
    """Drive one session of up to ``most`` sequences at random; hold its logits against those of a
    fresh one."""
    from bench.gpu_sessions import MODELS, buckets_to, make_session

    steps = 30 if results.quick else STEPS
    folder = folder / (f"float32.{most}" if most > MOST else "float32")
    options = {"kv_blocks": 1 + most * 8, "decode_buckets": buckets_to(most)}
    session, path = make_session(MODELS / name, folder, "float32", target, **options)
    draw = random.Random(5)
    live: list[Sequence] = []
    seen = _Seen()
    memory: list[dict[str, int]] = []
    rows: list[tuple[list[int], torch.Tensor]] = []
    every = max(1, steps // 60)
    _bind_all(session, most)
    for step in range(steps):
        if most > MOST and step % DRIFT == 0:
            _drift(session, live, draw, seen, draw.choice(buckets_to(most)))
        _change(session, live, draw, seen, most)
        vocabulary = session.manifest.model.vocabulary
        tokens = [draw.randrange(2, vocabulary) for _ in live]
        logits = session.decode(live, tokens)
        seen.count("decode")
        if step % every == 0 or step > steps - 4:
            place = draw.randrange(len(live))
            rows.append((list(live[place].tokens), logits[place].float().cpu()))
        if session.greedy and draw.random() < 0.1:
            _greedy(session, live, logits, draw, seen)
        del logits  # as many rows as there are sequences now: no memory of the session
        if step in (steps // 3, 2 * steps // 3, steps - 1):
            memory.append(_memory(session))
    free = session.cache.allocator.available
    for sequence in live:
        session.release(sequence)
    usable = session.cache.allocator.usable
    given_back = session.cache.allocator.available == usable
    del session
    clean()
    fresh, _ = make_session(MODELS / name, path, "float32", target)
    _compare(fresh, rows, seen)
    results.check(
        f"{name}, float32: {steps} replays with up to {most} sequences that come and go",
        seen.worst <= TOLERANCE and seen.compared == len(rows) and given_back,
        compared=seen.compared,
        worst_deviation=seen.worst,
        limit=TOLERANCE,
        events=seen.events,
        blocks_free_at_the_end=free,
        blocks_given_back=given_back,
    )
    constant = all(reserved == memory[0] for reserved in memory)
    results.check(
        f"{name}: device memory is constant over the replays of up to {most} sequences",
        constant,
        memory=memory,
    )


def _bind_all(session: Session, most: int) -> None:
    """Every shape of a prefill once, so that what is kept of it is there before memory is read."""
    for length in PROMPTS:
        sequence = session.sequence(list(range(2, 2 + length)))
        session.prefill([sequence])
        session.release(sequence)
    for count in range(1, most + 1):
        sequences = [session.sequence([2, 3, 4]) for _ in range(count)]
        for begin in range(0, count, 64):
            session.prefill(sequences[begin : begin + 64])
        session.decode(sequences, [5] * count)
        for sequence in sequences:
            session.release(sequence)


def _drift(
    session: Session, live: list[Sequence], draw: random.Random, seen: _Seen, wanted: int
) -> None:
    """Let sequences out or new ones in, until there are ``wanted``."""
    while len(live) > wanted:
        session.release(live.pop(draw.randrange(len(live))))
        seen.count("leave")
    while len(live) < wanted:
        _join(session, live, draw, seen)


def _join(session: Session, live: list[Sequence], draw: random.Random, seen: _Seen) -> None:
    vocabulary = session.manifest.model.vocabulary
    length = draw.choice(PROMPTS)
    sequence = session.sequence([draw.randrange(2, vocabulary) for _ in range(length)])
    session.prefill([sequence])
    live.append(sequence)
    seen.count("join")


def _change(
    session: Session, live: list[Sequence], draw: random.Random, seen: _Seen, most: int
) -> None:
    """Let sequences out, shorten, fork and let new ones in."""
    for sequence in [sequence for sequence in live if len(sequence) >= LONGEST]:
        live.remove(sequence)
        session.release(sequence)
        seen.count("full")
    if len(live) > 1 and draw.random() < 0.15:
        session.release(live.pop(draw.randrange(len(live))))
        seen.count("leave")
    if live and draw.random() < 0.1:
        sequence = draw.choice(live)
        session.truncate(sequence, draw.randrange(1, len(sequence) + 1))
        seen.count("truncate")
    if live and len(live) < most and draw.random() < 0.1:
        live.append(session.fork(draw.choice(live)))
        seen.count("fork")
    if not live or (len(live) < most and draw.random() < 0.2):
        _join(session, live, draw, seen)
    draw.shuffle(live)


def _greedy(
    session: Session, live: list[Sequence], logits: torch.Tensor, draw: random.Random, seen: _Seen
) -> None:
    """A few steps of the loop that runs ahead; one sequence may leave while a step is under way."""
    with session.greedy_steps(live, logits.argmax(-1).tolist()) as steps:
        for _ in range(draw.randrange(1, 4)):
            steps.step()
            seen.count("greedy")
        if len(live) > 1 and draw.random() < 0.3:
            sequence = live.pop(draw.randrange(len(live)))
            steps.leave(sequence)
            session.release(sequence)
            steps.step()
            seen.count("leave while ahead")


def _compare(session: Session, rows: list[tuple[list[int], torch.Tensor]], seen: _Seen) -> None:
    """The same tokens from the start, in a session that has seen nothing else."""
    for tokens, logits in rows:
        sequence = session.sequence(tokens)
        expected = session.prefill([sequence])[0].float().cpu()
        session.release(sequence)
        deviation = float((logits - expected).abs().max() / expected.std())
        # A comparison with NaN must not pass for a small one.
        seen.worst = max(seen.worst, deviation) if deviation == deviation else float("inf")
        seen.compared += 1


def _memory(session: Session) -> dict[str, Any]:
    """Bytes that tensors have on the device, and bytes that the process holds of it."""
    if session.device.type != "cuda":
        return {"blocks": session.cache.allocator.usable}
    torch.cuda.synchronize()
    return {
        "allocated": torch.cuda.memory_allocated(session.device),
        "reserved": torch.cuda.memory_reserved(session.device),
        "free": torch.cuda.mem_get_info(session.device)[0],
    }
