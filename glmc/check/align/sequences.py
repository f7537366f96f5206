"""What two records were made of: prompts, tokens fed, and which steps can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from glmc.errors import UsageError
from glmc_runtime.record.tensors import Record

Ids = tuple[tuple[int, ...], ...]
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class ComparedSteps:
    """Pairs of step numbers, and what is to be said of others."""

    pairs: tuple[tuple[int, int], ...]
    remarks: tuple[str, ...]


def compared_steps(
    expected: Record, actual: Record, steps: Iterable[int], others: Iterable[int]
) -> ComparedSteps:
    """The steps that both have, up to the first that was fed other tokens.

    Raises :class:`UsageError` for records of other prompts.
    """
    facts = expected.facts, actual.facts
    prompts = [token_ids(each.get("prompts")) for each in facts]
    if None not in prompts and prompts[0] != prompts[1]:
        raise UsageError(
            "the two sides are of other prompts, so no value of one is one of the other",
            place=f"{expected.label}, {actual.label}",
            expected=_shown(prompts[0]),
            found=_shown(prompts[1]),
            remedy="record one with --like the other",
        )
    left, right = sorted(set(steps)), sorted(set(others))
    both = [step for step in left if step in right]
    remarks = []
    pairs = [(step, step) for step in both]
    if not both and left and right:
        pairs = list(zip(left, right, strict=False))
        numbers = f"{_numbers(left)} and {_numbers(right)}"
        remarks.append(f"steps are numbered {numbers}, and are paired in order")
    else:
        for label, some in (
            (expected.label, set(left) - set(both)),
            (actual.label, set(right) - set(both)),
        ):
            if some:
                remarks.append(f"only {label} has step {_numbers(sorted(some))}")
    other = _other_token(*(token_ids(each.get("tokens")) for each in facts))
    if other is not None and any(pair[0] >= other for pair in pairs):
        pairs = [pair for pair in pairs if pair[0] < other]
        remarks.append(
            f"from step {other} on the sides computed other tokens, and nothing is compared: "
            "record one with --like the other"
        )
    return ComparedSteps(tuple(pairs), tuple(remarks))


def lengths_of(facts: Iterable[Facts], step: int) -> tuple[int, ...] | None:
    """The tokens of each sequence that a step computes, where a side says so."""
    for each in facts:
        prompts = token_ids(each.get("prompts"))
        if prompts is not None:
            return tuple(1 if step else len(prompt) for prompt in prompts)
    return None


def token_ids(value: Any) -> Ids | None:
    """Lists of token ids; None for what is none, as a foreign file may have."""
    if not isinstance(value, (list, tuple)) or not value:
        return None
    if not all(isinstance(each, (list, tuple)) for each in value):
        return None
    if not all(isinstance(token, int) for each in value for token in each):
        return None
    return tuple(tuple(each) for each in value)


def _other_token(tokens: Ids | None, others: Ids | None) -> int | None:
    """The first decode step, from 1, of which a sequence has another token."""
    if tokens is None or others is None:
        return None
    apart = [
        step
        for one, other in zip(tokens, others, strict=False)
        for step, (token, another) in enumerate(zip(one, other, strict=False), 1)
        if token != another
    ]
    return min(apart, default=None)


def _shown(prompts: Ids | None) -> str:
    texts = [f"{len(prompt)} tokens {list(prompt[:6])}" for prompt in prompts or ()]
    return "; ".join(texts[:4]) + (" ..." if len(texts) > 4 else "")


def _numbers(steps: list[int]) -> str:
    return ", ".join(map(str, steps[:8])) + (" ..." if len(steps) > 8 else "")
