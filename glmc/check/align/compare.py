"""Aligns two records: which values are one, how far apart they are, and which are too far."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from glmc.check.align.aligned_step import AlignedStep, Progress, Wanted
from glmc.check.align.loaded import dtype_of_record, known_dtype
from glmc.check.align.module_tree import layer_number
from glmc.check.align.other_experts import UNKNOWN_LENGTH
from glmc.check.align.pairing import of_steps, paired
from glmc.check.align.result import AlignedValue, Alignment
from glmc.check.align.router_scores import ROUTER_SCORES
from glmc.check.align.sequences import compared_steps, lengths_of
from glmc.check.align.thresholds import Rounding, Thresholds
from glmc_runtime.record.h5_facts import TOOL
from glmc_runtime.record.tensors import Record, RecordedTensor
from glmc_runtime.record.unequal_ranks import unequal_ranks


def _all(module: str, layer: int | None) -> bool:
    return True


def align(
    expected: Record,
    actual: Record,
    thresholds: Thresholds | None = None,
    wanted: Wanted = _all,
) -> Alignment:
    """Compare ``actual`` with ``expected``, value by value; one pair of tensors is in memory at a
    time. Raises :class:`UsageError` for records of other prompts, and what reading them raises."""
    thresholds = thresholds or Rounding()
    records = expected, actual
    tensors = [list(each.tensors()) for each in records]
    steps = [of_steps(side) for side in tensors]
    compared = compared_steps(expected, actual, *steps)
    foreign = [each.facts.get("tool") != TOOL for each in records]
    dtypes = [dtype_of_record(*side) for side in zip(records, tensors, strict=True)]
    progress = Progress((dtypes[0], dtypes[1]), (foreign[0], foreign[1]))
    values: list[AlignedValue] = []
    unpaired: tuple[dict[str, None], dict[str, None]] = ({}, {})
    facts = expected.facts, actual.facts
    for step, other in compared.pairs:
        sides = steps[0][step], steps[1][other]
        lengths = lengths_of(facts, step)
        pairing = paired(*sides, lengths)
        progress.others.begin(lengths or (UNKNOWN_LENGTH,))
        step_of_both = AlignedStep(thresholds, progress, pairing.pairs, sides[0], wanted)
        values += step_of_both.rows()
        for names, left in zip(unpaired, pairing.unpaired, strict=True):
            names.update((str(each.key), None) for each in _listed(left, wanted))
    return Alignment(
        expected.label,
        actual.label,
        facts,
        tuple(values),
        (tuple(unpaired[0]), tuple(unpaired[1])),
        (*compared.remarks, *_remarks(records, tensors, foreign, dtypes)),
        f"{thresholds.name}: {thresholds.words}",
    )


def _listed(left: Iterable[RecordedTensor], wanted: Wanted) -> Iterator[RecordedTensor]:
    """What one side alone has, but for a router's scores, which say how close its choices were."""
    for each in left:
        if each.key.class_name != ROUTER_SCORES and wanted(
            each.key.module, layer_number(each.key.module)
        ):
            yield each


def _left_out(record: Record) -> Iterator[str]:
    """What a reader left out of a file of another tool."""
    skipped, ranks = record.facts.get("skipped"), record.facts.get("read_ranks")
    if skipped:
        names = f"{len(skipped)} names" if len(skipped) > 1 else "a name"
        yield f"{record.label} has {names} in another grammar, left out, such as '{skipped[0]}'"
    if ranks:
        yield f"{record.label} has {ranks} ranks, of which the first is read"


def _in_what(dtypes: Sequence[torch.dtype | None]) -> Iterator[str]:
    """What the dtypes of the sides mean for the verdicts, and what to do about it."""
    names = [str(each).removeprefix("torch.") for each in dtypes if each is not None]
    if not names:
        yield (
            "neither side says what it was computed in, so how far apart they may be is unknown: "
            "record A with glmc record MODEL --dtype NAME"
        )
    elif len({*names}) > 1:
        yield (
            f"A was computed in {names[0]} and B in {names[1]}: rounding alone puts values apart, "
            "and some tokens choose other experts by it, after which values are unknown. To judge "
            f"all of them record A in the dtype of B: glmc record MODEL --dtype {names[1]} --like A"
        )


def _remarks(
    records: Sequence[Record],
    tensors: Sequence[Sequence[RecordedTensor]],
    foreign: Sequence[bool],
    dtypes: Sequence[torch.dtype | None],
) -> Iterator[str]:
    for record, other_tool, dtype in zip(records, foreign, dtypes, strict=True):
        if other_tool and dtype is not None and not known_dtype(record.facts.get("dtype")):
            name = str(dtype).removeprefix("torch.")
            yield f"{record.label} does not say what it was computed in: {name}, by its values"
    yield from _in_what(dtypes)
    for record in records:
        yield from _left_out(record)
    yield from (unequal for each in records if (unequal := unequal_ranks(each.facts, each.label)))
    if any(each.rows is not None for some in tensors for each in some):
        yield "some rows of tensors are stored: those that both sides have are compared"
    if any(each.load is None for some in tensors for each in some):
        yield "of some tensors statistics alone are stored, which say less than a comparison"
