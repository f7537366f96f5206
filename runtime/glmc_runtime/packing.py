"""Cut the chunks of a step into replays: one, unless the step is beyond the buckets.

A plan gathers one row of logits per sequence. Further rows of logits of a chunk therefore each
take the place of an absent sequence, which is one padding row: ``n`` rows of logits of one chunk
cost ``n`` places of sequences and ``n - 1`` rows beside its tokens.
"""

from __future__ import annotations

from glmc_runtime.buckets import Buckets
from glmc_runtime.inputs import Step
from glmc_runtime.sequences import Chunk


def pack(chunks: list[Chunk], prefill: Buckets, decode: Buckets) -> list[list[Chunk]]:
    """The chunks of each replay. Read one after the other they are ``chunks``, in their order,
    with long ones cut, so the rows of logits keep their order, too."""
    if is_decode(chunks):
        size = decode.largest
        return [chunks[first : first + size] for first in range(0, len(chunks), size)]
    replays: list[list[Chunk]] = []
    rows = places = 0
    for chunk in chunks:
        left = chunk
        while left.tokens:
            count, logits = _fitting(left, rows, places)
            if not count:
                replays.append([])
                rows, places = prefill.largest, decode.largest
                continue
            tokens = left.tokens
            replays[-1].append(Chunk(tokens[:count], left.start, left.blocks, logits))
            rows -= count + _further(logits)
            places -= max(1, logits)
            left = Chunk(tokens[count:], left.start + count, left.blocks, left.logits - logits)
    return replays


def _fitting(chunk: Chunk, rows: int, places: int) -> tuple[int, int]:
    """How many tokens of a chunk fit into what is left of a replay, and the logits among them."""
    silent = len(chunk.tokens) - chunk.logits
    logits = min(chunk.logits, places, (rows - silent + 1) // 2)
    if logits > 0:
        return silent + logits, logits
    return (min(silent, rows) if places else 0), 0


def _further(logits: int) -> int:
    return max(0, logits - 1)


def is_decode(chunks: list[Chunk]) -> bool:
    """Whether the decode plan computes these: one token of each, and the logits behind it."""
    return all([len(chunk.tokens) == 1 and chunk.logits == 1 for chunk in chunks])


def step_of(chunks: list[Chunk], prefill: Buckets, decode: Buckets, size: int) -> tuple[str, Step]:
    """The phase that computes the chunks of one replay, and its step for blocks of ``size``."""
    if is_decode(chunks):
        bucket = decode.choose(len(chunks))
        return decode.phase, Step(chunks, bucket, bucket, size)
    further = sum(_further(chunk.logits) for chunk in chunks)
    rows = sum(len(chunk.tokens) for chunk in chunks) + further
    return prefill.phase, Step(chunks, prefill.choose(rows), len(chunks) + further, size)
