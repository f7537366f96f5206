"""A sequence: its tokens, its cache blocks, how much of it is cached, and its share of a step
(SequenceStep)."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Sequence as ListLike
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from glmc_runtime.arguments import integer, items_of, shown, token_ids
from glmc_runtime.errors import RequestError
from glmc_runtime.replay.step import ScheduledTokens

_LONG = 256  # tokens from which an array was faster than a list


@dataclass(eq=False)
class Sequence:
    """One request's tokens. ``cached`` counts the leading tokens whose keys are in ``blocks``.

    ``changes`` counts what was done to it other than by :mod:`glmc_runtime.engine.async_decode`,
    which so sees whether the in-flight step is still the next one.
    """

    tokens: list[int]
    blocks: list[int] = field(default_factory=list)
    cached: int = 0
    changes: int = field(default=0, repr=False)

    def __len__(self) -> int:
        return len(self.tokens)


class SequenceStep(NamedTuple):
    """What a step does with one sequence.

    ``append`` is put after its tokens. Of the tokens that are not cached yet the first ``compute``
    are then computed and cached (None: all of them). Logits come back after the last ``logits`` of
    these: 1 to go on from the newest token, 0 for a chunk that does not end its prompt, more to
    verify drafted tokens or to score a prompt.
    """

    sequence: Sequence
    append: ListLike[int] = ()
    compute: int | None = None
    logits: int = 1


def new_sequence(tokens: ListLike[int], max_context: int, vocabulary: int) -> Sequence:
    """A sequence of a prompt; raises :class:`RequestError`."""
    ids = _packed(token_ids("the prompt", tokens))
    if not ids:
        raise RequestError(
            "the prompt is empty", expected="at least one token", remedy="pass a prompt"
        )
    if len(ids) > max_context:
        raise RequestError(
            "the prompt is longer than the context",
            expected=f"at most {max_context} tokens",
            found=f"{len(ids)} tokens",
            remedy="shorten the prompt, or compile with a larger max_context",
        )
    _check_tokens(ids, vocabulary)
    return Sequence(list(ids))


def scheduled_tokens(item: SequenceStep, max_context: int, vocabulary: int) -> ScheduledTokens:
    """The tokens that a step computes of a sequence; raises :class:`RequestError` where it can't be
    right."""
    sequence, append, count, logits = item
    cached, length = sequence.cached, len(sequence) + len(append)
    if length > max_context:
        raise RequestError(
            "the context is full: a sequence is longer than it",
            expected=f"at most {max_context} tokens",
            found=f"{length} tokens",
            remedy="finish the sequence, or compile with a larger max_context",
        )
    fresh = length - cached
    if fresh < 1:
        raise RequestError(
            "a sequence has no new token to compute",
            found=f"all {length} tokens are cached",
            remedy="append tokens",
        )
    count = fresh if count is None else integer("compute", count)
    if not 1 <= count <= fresh:
        raise RequestError(
            "a SequenceStep computes another number of tokens than there are",
            expected=f"compute of 1 to {fresh}",
            found=str(count),
        )
    logits = integer("logits", logits)
    if not 0 <= logits <= count:
        raise RequestError(
            "logits exist only after the tokens that a SequenceStep computes",
            expected=f"logits of 0 to {count}",
            found=str(logits),
        )
    fresh_ids = [*sequence.tokens[cached : cached + count], *append]
    if set(map(type, fresh_ids)) != {int}:
        fresh_ids = token_ids("the sequence", fresh_ids)
    tokens = _packed(fresh_ids)
    _check_tokens(tokens, vocabulary)
    return ScheduledTokens(tokens[:count], cached, sequence.blocks, logits)


def check_decode(sequences: ListLike[Sequence], tokens: ListLike[int]) -> list[int]:
    """Refuse a decode step that is none; the tokens. Raises :class:`RequestError`."""
    ids = token_ids("the tokens of decode", tokens)
    if len(sequences) != len(ids):
        raise RequestError(
            "decode takes one token for each sequence",
            expected=str(len(sequences)),
            found=str(len(ids)),
            remedy="pass as many tokens as sequences",
        )
    for sequence in sequences:
        if sequence.cached != len(sequence):
            raise RequestError(
                "a sequence must be prefilled before it is decoded",
                expected=f"{len(sequence)} tokens in the cache",
                found=f"{sequence.cached}",
                remedy="prefill the sequence first",
            )
    return ids


def sequences_of(value: object) -> list[Sequence]:
    """Sequences in a list; a lone one is meant as one. Raises :class:`RequestError`."""
    if isinstance(value, Sequence):
        return [value]
    sequences = items_of("sequences", value, "sequences")
    for item in sequences:
        sequence_of(item)
    return sequences


def sequence_of(value: object) -> Sequence:
    """Raises :class:`RequestError` for what is no sequence."""
    if not isinstance(value, Sequence):
        raise RequestError(
            "this is no sequence",
            expected="what session.sequence or session.fork returned",
            found=shown(value),
        )
    return value


def sequence_steps_of(value: object) -> list[SequenceStep]:
    """The sequence steps of a batch, their tokens as lists of int. Raises :class:`RequestError`."""
    batch = [value] if isinstance(value, SequenceStep) else items_of("batch", value, "batch")
    for place, item in enumerate(batch):
        if not isinstance(item, SequenceStep):
            raise RequestError(
                "a step takes a SequenceStep for each sequence",
                expected="[SequenceStep(sequence, ...), ...]",
                found=shown(item),
            )
        sequence_of(item.sequence)
        if type(item.append) is not tuple or set(map(type, item.append)) - {int}:
            append = token_ids("append", item.append)
            batch[place] = item._replace(append=tuple(append))
    return batch


def check_distinct(batch: ListLike[SequenceStep]) -> None:
    """A step has at least one sequence and each once; raises :class:`RequestError`."""
    if not batch:
        raise RequestError(
            "the step has no sequence", expected="at least one", remedy="pass a sequence"
        )
    if len({id(item.sequence) for item in batch}) != len(batch):
        raise RequestError(
            "the same sequence is twice in one step",
            expected="each sequence once",
            remedy="leave it out once, or fork it for a twin",
        )


def _packed(tokens: list[int]) -> ListLike[int]:
    """A long list as an array, whose ends torch finds at once and which a step copies whole. A
    short list comes back as it is, as does one that holds an integer of more than 64 bits."""
    if len(tokens) >= _LONG:
        with contextlib.suppress(OverflowError):
            return array("q", tokens)
    return tokens


def _check_tokens(tokens: ListLike[int], vocabulary: int) -> None:
    ends: tuple[int, ...] = ()
    if isinstance(tokens, array):
        least, most = torch.frombuffer(tokens, dtype=torch.int64).aminmax()
        ends = int(least), int(most)
    elif tokens:
        # Both ends are found ten times faster than each token is looked at.
        ends = min(tokens), max(tokens)
    for token in ends:
        if not 0 <= token < vocabulary:
            raise RequestError(
                "a token id is not in the vocabulary",
                expected=f"0 to {vocabulary - 1}",
                found=shown(token),
                remedy="pass ids of the model's own tokenizer",
            )
