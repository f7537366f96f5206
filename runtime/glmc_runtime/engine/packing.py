"""Cut the chunks of a step into replays: one, unless the step is beyond the buckets.

A plan gives the logits behind the last token of each of its sequences. Where they are wanted behind
several tokens of a chunk, it is cut there, and its pieces run side by side as if they were
sequences: in every layer the keys and values of all rows are written before any attention reads
them, so a piece sees the tokens of those before it. Drafted tokens to verify are then single tokens
for the decode plan, like those of a plain decode step. A decode plan that writes and attends in one
launch (``PhasePlan.rows_apart``) can't do so: pieces of one sequence then go to the prefill plan.
"""

from __future__ import annotations

from collections.abc import Iterator

from glmc_runtime.replay.buckets import Buckets
from glmc_runtime.replay.step import Chunk, Step


def pack(
    chunks: list[Chunk], prefill: Buckets, decode: Buckets, apart: bool = False
) -> list[list[Chunk]]:
    """The chunks of each replay, each with logits behind its last token or none. Read one after
    the other they are ``chunks``, in their order, so the rows of logits keep their order, too.
    ``apart`` says that no row of the decode plan sees the new token of another one."""
    pieces = chunks
    if any([chunk.logits > 1 for chunk in chunks]):
        pieces = [piece for chunk in chunks for piece in _pieces(chunk)]
    if _is_decode(pieces, apart):
        size = decode.largest
        if len(pieces) <= size:
            return [pieces]
        return [pieces[first : first + size] for first in range(0, len(pieces), size)]
    replays: list[list[Chunk]] = []
    rows = places = 0
    for piece in pieces:
        while piece.tokens:
            if not rows or not places:
                replays.append([])
                rows, places = prefill.largest, decode.largest
            first, piece = _cut(piece, rows)
            replays[-1].append(first)
            rows -= len(first.tokens)
            places -= 1
    return replays


def step_of(
    chunks: list[Chunk], prefill: Buckets, decode: Buckets, size: int, apart: bool = False
) -> tuple[str, Step]:
    """The phase that computes the chunks of one replay, and its step for blocks of ``size``."""
    if _is_decode(chunks, apart):
        bucket = decode.choose(len(chunks))
        return decode.phase, Step(chunks, bucket, bucket, size)
    rows = sum([len(chunk.tokens) for chunk in chunks])
    return prefill.phase, Step(chunks, prefill.choose(rows), len(chunks), size)


def _is_decode(chunks: list[Chunk], apart: bool) -> bool:
    """Whether the decode plan computes these: one token of each, and of each sequence one where
    rows are ``apart``. Pieces of one sequence have its very list of blocks."""
    if apart and len({id(chunk.blocks) for chunk in chunks}) < len(chunks):
        return False
    return all([len(chunk.tokens) == 1 for chunk in chunks])


def _pieces(chunk: Chunk) -> Iterator[Chunk]:
    """Cut a chunk behind each token whose logits are wanted."""
    first, rest = _cut(chunk, len(chunk.tokens) - max(0, chunk.logits - 1))
    yield first._replace(logits=min(1, chunk.logits))
    for place, token in enumerate(rest.tokens):
        yield Chunk((token,), rest.start + place, rest.blocks)


def _cut(chunk: Chunk, count: int) -> tuple[Chunk, Chunk]:
    """The first ``count`` tokens of a chunk, without logits unless they are all, and the rest."""
    tokens, start, blocks, logits = chunk
    rest = Chunk(tokens[count:], start + count, blocks, logits)
    return (Chunk(tokens[:count], start, blocks, 0) if rest.tokens else chunk), rest
