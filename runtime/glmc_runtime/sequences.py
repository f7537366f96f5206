"""A sequence: its tokens, its cache blocks, and how much of it is cached."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from dataclasses import dataclass, field
from typing import NamedTuple

from glmc_runtime.errors import RequestError


@dataclass(eq=False)
class Sequence:
    """One request's tokens. ``cached`` counts the leading tokens whose keys are in ``blocks``."""

    tokens: list[int]
    blocks: list[int] = field(default_factory=list)
    cached: int = 0

    def __len__(self) -> int:
        return len(self.tokens)


class Chunk(NamedTuple):
    """The share of one sequence in a step: new ``tokens``, the first at position ``start``."""

    tokens: ListLike[int]
    start: int
    blocks: list[int]


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold ``tokens`` tokens."""
    return -(-tokens // block_size)


def new_sequence(tokens: ListLike[int], max_context: int, vocabulary: int) -> Sequence:
    """A sequence of a prompt; raises :class:`RequestError`."""
    prompt = [int(token) for token in tokens]
    if not prompt:
        raise RequestError(
            "the prompt is empty", expected="at least one token", remedy="pass a prompt"
        )
    if len(prompt) > max_context:
        raise RequestError(
            "the prompt is longer than the context",
            expected=f"at most {max_context} tokens",
            found=f"{len(prompt)} tokens",
            remedy="shorten the prompt, or compile with a larger max_context",
        )
    _check_tokens(prompt, vocabulary)
    return Sequence(prompt)


def check_prefill(sequences: ListLike[Sequence], max_context: int, vocabulary: int) -> None:
    """Refuse a prefill without new tokens, with unknown ones, or beyond the context; raises
    :class:`RequestError`."""
    _check_distinct(sequences)
    for sequence in sequences:
        if sequence.cached >= len(sequence):
            raise RequestError(
                "a sequence has no new token to prefill",
                found=f"all {len(sequence)} tokens are cached",
                remedy="append tokens first, or decode",
            )
        if len(sequence) > max_context:
            raise RequestError(
                "a sequence is longer than the context",
                expected=f"at most {max_context} tokens",
                found=f"{len(sequence)} tokens",
                remedy="shorten it, or compile with a larger max_context",
            )
        _check_tokens(sequence.tokens[sequence.cached :], vocabulary)


def check_decode(
    sequences: ListLike[Sequence], token_ids: ListLike[int], max_context: int, vocabulary: int
) -> None:
    """Refuse a decode step that can't be right; raises :class:`RequestError`."""
    if len(sequences) != len(token_ids):
        raise RequestError(
            "decode takes one token for each sequence",
            expected=str(len(sequences)),
            found=str(len(token_ids)),
        )
    _check_distinct(sequences)
    _check_tokens(token_ids, vocabulary)
    for sequence in sequences:
        if sequence.cached != len(sequence):
            raise RequestError(
                "a sequence must be prefilled before it is decoded",
                expected=f"{len(sequence)} tokens in the cache",
                found=f"{sequence.cached}",
            )
        if len(sequence) >= max_context:
            raise RequestError(
                "the context is full",
                expected=f"at most {max_context} tokens",
                remedy="finish the sequence, or compile with a larger max_context",
            )


def _check_distinct(sequences: ListLike[Sequence]) -> None:
    if not sequences:
        raise RequestError("the step has no sequence", expected="at least one")
    if len({id(sequence) for sequence in sequences}) != len(sequences):
        raise RequestError("the same sequence is twice in one step")


def _check_tokens(tokens: ListLike[int], vocabulary: int) -> None:
    for token in tokens:
        if not 0 <= token < vocabulary:
            raise RequestError(
                "a token id is not in the vocabulary",
                expected=f"0 to {vocabulary - 1}",
                found=str(token),
            )
