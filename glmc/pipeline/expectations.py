"""The match counts that a model must have, and the errors for those that it has not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from glmc.errors import Lines, LoweringError, MatchCountError
from glmc.passes import shard, specialise
from glmc.passes.kv_cache import NAME as NAME_OF_PAGING
from glmc.pipeline.records import PassRecord
from glmc.pipeline.selection import Selection
from glmc.pipeline.stages import NEEDS


def enforced_counts(expected: Mapping[str, int], selection: Selection) -> dict[str, int]:
    """The counts that hold although passes are off or share their matches with a user's pass."""
    unsure = {*selection.off, *selection.uncounted}
    unsure |= {name for name, needs in NEEDS.items() if unsure & set(needs)}
    return {name: wanted for name, wanted in expected.items() if name not in unsure}


def check_matches(records: tuple[PassRecord, ...], expected: Mapping[str, int]) -> list[str]:
    """Compare match counts with the model's; returns one line per pass that differs."""
    ran = {record.name for record in records}
    problems = [
        f"{name}: expected {wanted}, found 0 (the pass is not in the pipeline)"
        for name, wanted in expected.items()
        if wanted and name not in ran
    ]
    for record in records:
        wanted = expected.get(record.name)
        if wanted is None or wanted == len(record.matches):
            continue
        reasons = [
            f"layer {miss.layer}: {miss.node}: {miss.condition} {miss.source}".rstrip()
            for miss in record.near_misses
        ]
        shown = "; ".join(reasons[:3]) or "no near miss was seen"
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        problems.append(
            f"{record.name}: expected {wanted}, found {len(record.matches)}"
            f"{_poor_layers(record, records)} ({shown}{more})"
        )
    return problems


def _poor_layers(record: PassRecord, records: tuple[PassRecord, ...]) -> str:
    """The layers with fewer matches of this pass than the richest layer has, as a phrase."""
    layers = {match.layer for other in records for match in other.matches} - {None}
    counts = Counter(match.layer for match in record.matches)
    most = max((counts[layer] for layer in layers), default=0)
    poor = sorted(layer for layer in layers if layer is not None and counts[layer] < max(most, 1))
    if not poor:
        return ""
    named = ", ".join(map(str, poor[:12])) + (" ..." if len(poor) > 12 else "")
    return f", fewest in layer{'s' if len(poor) > 1 else ''} {named}"


def fusion_counts(expected: Mapping[str, int]) -> dict[str, int]:
    """The counts of the passes that ``fuse`` runs."""
    later = (NAME_OF_PAGING, shard.NAME, specialise.NAME)
    return {name: wanted for name, wanted in expected.items() if name not in later}


def explain_unfused(
    error: LoweringError,
    records: tuple[PassRecord, ...],
    expected: Mapping[str, int],
    off: tuple[str, ...] = (),
) -> LoweringError:
    """``error`` with the lost fusions that led to it, or the passes that were switched off; the
    same error when there are neither."""
    lost = check_matches(records, fusion_counts(expected))
    if off and not lost:
        return LoweringError(
            f"{' and '.join(off)} switched off: what is left of it can't be compiled",
            place=error.place,
            expected=_needed(off),
            found=_reason(error),
            remedy=f"without {' '.join(f'--passes-off {name}' for name in off)}, or --passes-on "
            "with a pass that does its work",
        )
    if not lost:
        return error
    return LoweringError(
        "this fusion is required: no unfused implementation exists for the target",
        place=error.place,
        expected=f"matches of {', '.join(line.split(':', maxsplit=1)[0] for line in lost)}",
        found=Lines.of((_reason(error), *lost)),
        remedy="report the model and the transformers version, with the reasons above",
    )


def _needed(off: tuple[str, ...]) -> str:
    """The passes that are off, with those that find nothing, or less, without them."""
    needing = [name for name, needs in NEEDS.items() if set(needs) & set(off) and name not in off]
    return ", ".join(off) + (f" (needed by {', '.join(needing)})" if needing else "")


def _reason(error: LoweringError) -> str:
    return f"{error.message}: {error.found or error.expected}"


def require_matches(records: tuple[PassRecord, ...], expected: Mapping[str, int]) -> None:
    """Raise MatchCountError when a pass found another number of matches than the model has."""
    problems = check_matches(records, expected)
    if problems:
        raise MatchCountError(
            "unexpected number of fusions",
            place="; ".join(problem.split(":", maxsplit=1)[0] for problem in problems),
            expected="the counts that this model's config implies",
            found=Lines.of(problems),
            remedy="report the model and transformers version, or go on with --allow-missing",
        )
