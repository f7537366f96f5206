"""Cut the chunks of a step into micro-batches: one, unless the step is beyond the buckets.

A plan gives the logits after the last token of each of its sequences. Where they are wanted after
several tokens of a chunk, it is cut there, and its slices run side by side as if they were
sequences: in every layer the keys and values of all rows are written before any attention reads
them, so a slice sees the tokens of those before it. Drafted tokens to verify are then single tokens
for the decode plan, like those of a plain decode step. A decode plan that writes and attends in one
launch (``PhasePlan.fused_cache_write``) can't do so: slices of one sequence then go to the prefill
plan.
"""

from __future__ import annotations

from collections.abc import Iterator

from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.replay.buckets import Buckets
from glmc_runtime.replay.step import ScheduledTokens, Step


def micro_batches_of(
    chunks: list[ScheduledTokens],
    prefill: Buckets,
    decode: Buckets,
    fused_cache_write: bool = False,
) -> list[list[ScheduledTokens]]:
    """The chunks of each micro-batch, which is one replay; each with logits after its last token or
    none. Read one after the other they are ``chunks``, in their order, so the rows of logits keep
    their order, too. ``fused_cache_write`` says that no row of the decode plan sees the new token
    of another one."""
    slices = chunks
    if any([chunk.logits > 1 for chunk in chunks]):
        slices = [token_slice for chunk in chunks for token_slice in _slices(chunk)]
    if _is_decode(slices, fused_cache_write):
        size = decode.largest
        if len(slices) <= size:
            return [slices]
        return [slices[first : first + size] for first in range(0, len(slices), size)]
    micro_batches: list[list[ScheduledTokens]] = []
    rows = places = 0
    for token_slice in slices:
        while token_slice.tokens:
            if not rows or not places:
                micro_batches.append([])
                rows, places = prefill.largest, decode.largest
            first, token_slice = _split_at(token_slice, rows)
            micro_batches[-1].append(first)
            rows -= len(first.tokens)
            places -= 1
    return micro_batches


def step_of(
    chunks: list[ScheduledTokens],
    prefill: Buckets,
    decode: Buckets,
    size: int,
    fused_cache_write: bool = False,
) -> tuple[PhaseKey, Step]:
    """The phase that computes the chunks of one replay, and its step for blocks of ``size``."""
    if _is_decode(chunks, fused_cache_write):
        bucket = decode.choose(len(chunks))
        return decode.phase, Step(chunks, bucket, bucket, size)
    rows = sum([len(chunk.tokens) for chunk in chunks])
    return prefill.phase, Step(chunks, prefill.choose(rows), len(chunks), size)


def _is_decode(chunks: list[ScheduledTokens], fused_cache_write: bool) -> bool:
    """Whether the decode plan computes these: one token of each, and of each sequence one where its
    cache write is fused. Slices of one sequence have its very list of blocks."""
    if fused_cache_write and len({id(chunk.blocks) for chunk in chunks}) < len(chunks):
        return False
    return all([len(chunk.tokens) == 1 for chunk in chunks])


def _slices(chunk: ScheduledTokens) -> Iterator[ScheduledTokens]:
    """Cut a chunk after each token whose logits are wanted."""
    first, rest = _split_at(chunk, len(chunk.tokens) - max(0, chunk.logits - 1))
    yield first._replace(logits=min(1, chunk.logits))
    for place, token in enumerate(rest.tokens):
        yield ScheduledTokens((token,), rest.start + place, rest.blocks)


def _split_at(chunk: ScheduledTokens, count: int) -> tuple[ScheduledTokens, ScheduledTokens]:
    """The first ``count`` tokens of a chunk, without logits unless they are all, and the rest."""
    tokens, start, blocks, logits = chunk
    rest = ScheduledTokens(tokens[count:], start + count, blocks, logits)
    return (ScheduledTokens(tokens[:count], start, blocks, 0) if rest.tokens else chunk), rest
