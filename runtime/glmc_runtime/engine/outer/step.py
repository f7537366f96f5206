"""A step of an outer engine: its own tensors, as it has them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from operator import gt

import torch

from glmc_runtime import arguments as kinds
from glmc_runtime.errors import RequestError

_INDICES = (torch.int32, torch.int64)
_HOST = torch.device("cpu")


@dataclass(frozen=True)
class OuterStep:
    """One batch of an outer engine: new ``tokens`` of ``sequences``, packed one after the other.

    All tensors are int32 or int64, on the device of the artifact or in host memory, and at least as
    long as said here: an engine's own buffers may be longer. vLLM calls them ``input_ids``,
    ``positions``, ``slot_mapping``, ``block_table``, ``seq_lens`` and ``query_start_loc``.

    ``token_ids``, ``positions`` and ``slot_mapping`` [tokens]: ids, places in their sequences, and
    block * block_size + offset of where their keys and values go. ``block_tables`` [sequences,
    any width]: blocks in order. ``context_lengths`` [sequences]: tokens in the cache after this
    step. ``cu_seqlens_q`` [sequences + 1]: prefix sums of new tokens. ``longest_query``: the most
    new tokens of one sequence; 1 is a decode step.

    ``context_lengths_host`` and ``cu_seqlens_q_host`` are the same numbers in host memory. A plan
    whose kernels read them there needs them (:attr:`AttachedModel.needs_host_lengths`), since to
    fetch them would wait for the device; lengths that are in host memory anyway serve for both.
    What is in pinned memory may be changed once the step has run.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    slot_mapping: torch.Tensor
    block_tables: torch.Tensor
    context_lengths: torch.Tensor
    cu_seqlens_q: torch.Tensor
    tokens: int
    sequences: int
    longest_query: int
    context_lengths_host: torch.Tensor | None = None
    cu_seqlens_q_host: torch.Tensor | None = None

    @property
    def is_decode(self) -> bool:
        """Whether each sequence has one new token."""
        return self.longest_query == 1


Form = tuple[object, ...]
"""Counts of a step, and places, shapes and dtypes of its tensors."""


def form_of(step: OuterStep) -> Form:
    """What is the same in most decode steps of an engine, which keeps its tensors."""
    tensors = (
        step.token_ids,
        step.positions,
        step.slot_mapping,
        step.block_tables,
        step.context_lengths,
        step.cu_seqlens_q,
    )
    places = [(each.data_ptr(), each.shape, each.dtype, each.stride()) for each in tensors]
    return (step.tokens, step.sequences, step.longest_query, *places)


def check_form(step: OuterStep, device: torch.device) -> None:
    """Raise :class:`RequestError` for a step that can't be right, without waiting for the device.

    Looked at are counts, kinds and shapes; lengths are :func:`check_lengths`'s. Trusted are ids,
    positions, slots and blocks, which must be those of the vocabulary and of the cache, and that no
    sequence is twice in a decode step.
    """
    counts = ("tokens", "sequences", "longest_query")
    tokens, sequences, longest = (kinds.integer(name, getattr(step, name)) for name in counts)
    if not 1 <= sequences <= tokens or not 1 <= longest <= tokens:
        raise RequestError(
            "a step has no such numbers of tokens and sequences",
            expected="1 <= sequences <= tokens and 1 <= longest_query <= tokens",
            found=f"{tokens} tokens, {sequences} sequences, longest_query {longest}",
        )
    if tokens > sequences * longest or (step.is_decode and tokens != sequences):
        raise RequestError(
            "the tokens of a step are not those of its sequences",
            expected=f"at most {sequences * longest}, {longest} for each sequence",
            found=str(tokens),
        )
    least = {
        "token_ids": (tokens,),
        "positions": (tokens,),
        "slot_mapping": (tokens,),
        "block_tables": (sequences, 1),
        "context_lengths": (sequences,),
        "cu_seqlens_q": (sequences + 1,),
    }
    for name, shape in least.items():
        _check_tensor(name, getattr(step, name), shape, device)


def check_lengths(step: OuterStep, max_context: int, block_size: int, *, ends: bool = True) -> None:
    """Raise :class:`RequestError` for lengths that can't be right, as far as they are in host
    memory: one look at a number for each sequence, in lists. Without ``ends`` ``cu_seqlens_q`` is
    left out, which no decode plan reads."""
    names = ("context_lengths", "cu_seqlens_q")[: 1 + ends]
    for name in names:
        value = getattr(step, f"{name}_host")
        if value is not None:
            size = step.sequences + (name == "cu_seqlens_q")
            _check_tensor(f"{name}_host", value, (size,), _HOST)
    _check_values(step, max_context, block_size, names)


def _check_tensor(name: str, value: object, least: tuple[int, ...], device: torch.device) -> None:
    """Written out for one and two dimensions: it is asked eight times in each step."""
    if (
        isinstance(value, torch.Tensor)
        and value.dtype in _INDICES
        and len(shape := value.shape) == len(least)
        and shape[0] >= least[0]
        and shape[-1] >= least[-1]
        and value.device.type in ("cpu", device.type)
    ):
        return
    found = (
        f"{value.dtype} {list(value.shape)} on {value.device}"
        if isinstance(value, torch.Tensor)
        else type(value).__name__
    )
    raise RequestError(
        f"'{name}' is not what a step has under this name",
        expected=f"int32 or int64 of at least {list(least)}, on {device} or in host memory",
        found=found,
    )


def _check_values(
    step: OuterStep, max_context: int, block_size: int, names: tuple[str, ...]
) -> None:
    lengths = _listed(step, "context_lengths")
    ends = _listed(step, "cu_seqlens_q") if "cu_seqlens_q" in names else None
    for name in names:
        _check_twins(step, name)
    if lengths is not None:
        longest, least = max(lengths), min(lengths)
        blocks = -(-longest // block_size)
        if longest <= max_context and blocks > step.block_tables.shape[1]:
            raise RequestError(
                "a sequence has more tokens than its row of block_tables has blocks for",
                expected=f"at least {blocks} columns for {longest} tokens",
                found=str(step.block_tables.shape[1]),
            )
        if longest > max_context or least < 1:
            raise RequestError(
                "a sequence has no such number of tokens",
                expected=f"context lengths of 1 to {max_context}",
                found=str(longest if longest > max_context else least),
                remedy="compile with a larger max_context, or limit the engine's",
            )
    if ends is not None and step.is_decode and ends == list(range(step.sequences + 1)):
        return
    if ends is not None:
        queries = [end - begin for begin, end in pairwise(ends)]
        fits = ends[0] == 0 and ends[-1] == step.tokens and min(queries) >= 1
        if not fits or max(queries) > step.longest_query:
            raise RequestError(
                "cu_seqlens_q are no prefix sums of the step's new tokens",
                expected=f"from 0 to {step.tokens}, each 1 to {step.longest_query} more",
                found=str(ends[:8]),
            )
        if lengths is not None and any(map(gt, queries, lengths)):
            raise RequestError(
                "a sequence has more new tokens than tokens",
                expected=f"at most {lengths[:8]}",
                found=str(queries[:8]),
            )


def _listed(step: OuterStep, name: str) -> list[int] | None:
    """Lengths as far as they are in host memory."""
    lengths = host_lengths(step, name)
    return None if lengths is None else lengths.tolist()


def _check_twins(step: OuterStep, name: str) -> None:
    """Of lengths that are in host memory twice both are used, so they must be the same."""
    size = step.sequences + (name == "cu_seqlens_q")
    value, twin = getattr(step, name), getattr(step, f"{name}_host")
    if twin is None or value.device.type != "cpu" or value.data_ptr() == twin.data_ptr():
        return
    if bool((value[:size] != twin[:size]).any()):
        raise RequestError(
            f"'{name}' and '{name}_host' are not the same numbers",
            expected=str(value[:size].tolist()[:8]),
            found=str(twin[:size].tolist()[:8]),
        )


def host_lengths(step: OuterStep, name: str) -> torch.Tensor | None:
    """``context_lengths`` or ``cu_seqlens_q`` as far as they are in host memory, cut to the
    step."""
    size = step.sequences + (name == "cu_seqlens_q")
    value: torch.Tensor | None = getattr(step, f"{name}_host")
    if value is None:
        value = getattr(step, name)
    return value[:size] if value is not None and value.device.type == "cpu" else None
