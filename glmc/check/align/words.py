"""An alignment in words: what was compared, and the first divergence in one paragraph."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from glmc.check.align.result import AlignedValue, Alignment, RouterAgreement, Verdict
from glmc.check.align.summary import worst_first
from glmc_runtime.command.output import counted
from glmc_runtime.command.units import share_text
from glmc_runtime.record.h5_facts import TOOL

WIDTH = 100
SHOWN = 8
"""Names of one side that are listed; more of them are counted."""
_WITHIN_NUMBERS = re.compile(r"off by \S+ where \S+ is allowed")
EMULATED = (
    "emulated: a side was computed by stand-ins of the vendor's functions on the host, not by "
    "Kunlun hardware"
)


def header_lines(alignment: Alignment) -> Iterator[str]:
    """The sides, what the verdicts follow, and what is to be said of either."""
    for letter, label, facts in zip(
        "AB", (alignment.expected, alignment.actual), alignment.facts, strict=True
    ):
        yield f"{letter}  {label}  ({_made_by(facts)})"
    if alignment.emulated:
        yield EMULATED
    if alignment.thresholds:
        yield f"thresholds {alignment.thresholds}"
    yield from (f"note: {remark}" for remark in alignment.remarks)


def _made_by(facts: Mapping[str, Any]) -> str:
    known = [str(facts[name]) for name in ("made_by", "model", "dtype") if facts.get(name)]
    if not known:
        return "of another tool" if facts.get("tool") != TOOL else "not known by what"
    return ", ".join(known)


def unpaired_lines(alignment: Alignment, *, names: bool) -> Iterator[str]:
    """What only one side has: how many values, with ``names`` which."""
    for letter, some in zip("AB", alignment.unpaired, strict=True):
        if not some:
            continue
        yield f"only in {letter}: {counted(len(some), 'tensor')}" + (
            "" if names else f", such as {some[0]}"
        )
        if names:
            yield from (f"  {name}" for name in some)


def number_text(number: float | None) -> str:
    """Three places; what is not known is a dash."""
    return "-" if number is None or math.isnan(number) else f"{number:.3g}"


def times_text(share: float) -> str:
    """A share of what is allowed; what is far beyond it is a factor."""
    return share_text(share) if share < 9.995 else f"{share:.3g} times"


def error_text(value: AlignedValue) -> str:
    """The error of a value as a share of its magnitude."""
    if value.router is not None:
        return f"{value.router.tokens - value.router.agreeing} of {value.router.tokens} tokens"
    relative = value.total.relative
    return "-" if math.isnan(relative) else number_text(relative)


def paragraph(alignment: Alignment) -> str:
    """The first divergence, or that there is none, for a terminal."""
    first = alignment.first
    sentences = _divergence(alignment, first) if first else _none(alignment)
    return textwrap.fill(" ".join(sentences), WIDTH, break_long_words=False, break_on_hyphens=False)


def _none(alignment: Alignment) -> Iterator[str]:
    values = alignment.values
    if not values:
        yield "No value of one side is one of the other: nothing was compared."
        return
    unknown = sum(each.verdict is Verdict.UNKNOWN for each in values)
    judged = len(values) - unknown
    yield f"No divergence: of {counted(len(values), 'value')} {judged} are within what is allowed."
    if unknown:
        worst = next(each for each in values if each.verdict is Verdict.UNKNOWN)
        yield f"{unknown} can't be judged, the first of them {worst.name}: {worst.reason}."
    known = [each for each in values if each.share is not None]
    if known:
        worst = worst_first(known)[0]
        yield f"The nearest to its limit is {worst.name}{_in_step(worst)}, with {_share(worst)}."
    yield from _ties(values)


def _ties(values: tuple[AlignedValue, ...]) -> Iterator[str]:
    """Routers that chose other experts for no fault of theirs."""
    tied = [each for each in values if each.router and each.router.agreeing < each.router.tokens]
    tied = [each for each in tied if each.router and each.router.tied]
    if not tied:
        return
    tokens = sum(each.router.tokens - each.router.agreeing for each in tied if each.router)
    margin = max(max(each.router.margins or (0.0,)) for each in tied if each.router)
    yield (
        f"Routers chose other experts for {counted(tokens, 'token')}, first in {tied[0].module}"
        f"{_in_step(tied[0])}: ties, and no fault, as the scores were at most "
        f"{number_text(margin)} apart, which the error of what the routers read explains."
    )


def _divergence(alignment: Alignment, value: AlignedValue) -> Iterator[str]:
    layer = "outside the layers" if value.layer is None else f"in layer {value.layer}"
    yield f"The first divergence is {value.name}, {layer}{_in_step(value)}."
    if value.other_name != value.name and value.other_name:
        yield f"On the other side it is {value.other_name}, paired by {value.paired_by}."
    if value.node:
        op = f" ({value.op})" if value.op else ""
        yield f"Node {value.node}{op} computes it{_by(value.function)}."
    elif value.function:
        yield f"It is computed{_by(value.function)}."
    if value.source:
        yield f"In the model this is {value.source}."
    if value.passes:
        yield f"Passes that made or changed the node: {', '.join(value.passes)}."
    if value.ranks_apart:
        apart = number_text(value.ranks_apart)
        yield f"Ranks differ in what they should have alike of it, by up to {apart}."
    yield _numbers(value)
    if value.verdict is Verdict.OWN and not _WITHIN_NUMBERS.fullmatch(value.reason):
        place = ", in the element furthest beyond" if _WITHIN_NUMBERS.search(value.reason) else ""
        yield f"{value.reason[:1].upper()}{value.reason[1:]}{place}."
    before = alignment.values[: alignment.values.index(value)]
    equal = bool(before) and all(_is_equal(each) for each in before)
    yield from _whose(value, equal)
    if value.router is not None:
        yield from _margins(value.router)
    if before:
        yield _before(before, equal)
        yield from _ties(before)
    further = list(tries(alignment, value))
    if further:
        yield f"To go on: {'; '.join(further)}."


def _in_step(value: AlignedValue) -> str:
    return f" of step {value.step}" + (f" ({value.phase})" if value.phase else "")


def _by(function: str) -> str:
    return f" by {function}" if function else ""


def _numbers(value: AlignedValue) -> str:
    total, reason = value.total, "" if value.verdict is Verdict.OWN else value.reason
    if value.router is not None:
        words = f"{error_text(value)} with other experts"
        return f"It has {reason or words}."
    if value.statistics is not None:
        was, now = value.statistics
        pairs = (
            f"{name} {number_text(getattr(was, name))} | {number_text(getattr(now, name))}"
            for name in ("minimum", "maximum", "mean", "std")
        )
        return f"{reason[:1].upper()}{reason[1:]}: {', '.join(pairs)}."
    if total.non_finite or math.isnan(total.rmse):
        return f"It has {value.reason}."
    text = (
        f"Its root mean square error is {number_text(total.rmse)}, {share_text(total.relative)} of "
        f"its magnitude, the largest {number_text(total.largest_absolute)}"
    )
    return f"{text}; {reason}." if reason else f"{text}."


def _whose(value: AlignedValue, equal_before: bool) -> Iterator[str]:
    own, inherited = value.own, value.inherited
    if own is not None:
        error = "not finite" if own.non_finite else _of_element(own.largest_absolute)
        yield f"Its own error, on operands as expected, is {error}{_allowed(value)}."
    if inherited is not None:
        error = "not finite" if inherited.non_finite else _of_element(inherited.largest_absolute)
        yield f"Inherited from its operands is {error}."
    if own is None and value.verdict is Verdict.FAIL and not equal_before:
        yield "Whether the error is its own or its operands' two records don't say."


def _allowed(value: AlignedValue) -> str:
    """The bound where most of it is taken, which need not be where the error is the largest."""
    if value.bound is None:
        return ""
    kind = f" of a {value.numerics} rewrite" if value.numerics else ""
    return f"; {number_text(value.bound)} is allowed{kind} where most of it is taken"


def _of_element(largest: float) -> str:
    return f"at most {number_text(largest)} in an element"


def _margins(router: RouterAgreement) -> Iterator[str]:
    if router.margins:
        shown = ", ".join(number_text(each) for each in sorted(router.margins)[-4:][::-1])
        ties = "" if not router.ties else f", of ties at most {number_text(max(router.ties))}"
        yield f"The scores of the exchanged experts are up to {shown} apart{ties}."


def _is_equal(value: AlignedValue) -> bool:
    return value.total.rmse == 0 and not value.total.non_finite


def _before(values: tuple[AlignedValue, ...], equal: bool) -> str:
    are = "is" if len(values) == 1 else "are"
    if equal:
        number = counted(len(values), "value")
        return f"{number} before it {are} equal, so the error arises between them and it."
    known = [each for each in values if each.share is not None]
    largest = "" if not known else f", at most {_share(worst_first(known)[0])}"
    return f"{counted(len(values), 'value')} before it {are} not too far apart{largest}."


def _share(value: AlignedValue) -> str:
    return f"{times_text(value.share or 0.0)} of what is allowed"


def tries(alignment: Alignment, value: AlignedValue) -> Iterator[str]:
    """What shows more, the cheapest first."""
    target = alignment.facts[1].get("target")
    ours = bool(value.node) and isinstance(target, str)
    if value.verdict is Verdict.OWN:
        yield "glmc align A B --test FILE.py writes a test of the op that fails until it is right"
    if value.node:
        yield f"glmc inspect ARTIFACT --node '{value.node}' has its life from the model to the call"
    if ours:
        yield f"glmc bisect MODEL --target {target} looks for the first pass that is wrong"
    if ours and value.dtype in ("bfloat16", "float16"):
        yield (
            f"compiled for {target} with --dtype float32, an error of rounding is gone and a fault "
            "stays"
        )
    if not value.node and value.layer is not None:
        yield f"glmc align A B --layers {value.layer} --all has every value of the layer"
