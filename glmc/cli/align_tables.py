"""Tables of an alignment: a line for each layer, or for each value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from glmc.check.align.result import AlignedValue, Difference, Verdict
from glmc.check.align.summary import SEVERITY, LayerSummary
from glmc.check.align.words import error_text, number_text, times_text

_WHOSE = ("own", "own allowed", "inherited")


def layers_table(layers: Iterable[LayerSummary], *, emulated: bool) -> Table:
    """Of each layer its worst value, whose error that is where it is known, how much of what is
    allowed it takes, and all verdicts."""
    layers = list(layers)
    table = Table(title=_title("Layers, with the worst value of each", emulated))
    whose = any(layer.worst.own is not None for layer in layers)
    columns = ["step", "layer", "values", "worst value", "error"]
    columns += [*_WHOSE] if whose else []
    columns.append("of allowed")
    routed = any(layer.routed for layer in layers)
    for column in (*columns, *(["same experts"] if routed else []), "verdict"):
        left = column in ("layer", "worst value", "verdict")
        justify: Any = "left" if left else "right"
        table.add_column(column, justify=justify, no_wrap=column != "verdict", overflow="fold")
    for layer in layers:
        worst = layer.worst
        experts = f"{layer.agreeing} of {layer.routed}" if layer.routed else "-"
        table.add_row(
            _step(worst),
            layer.layer,
            str(len(layer.values)),
            _within(worst.name, layer.layer),
            error_text(worst),
            *(_of_whom(worst) if whose else []),
            _share(worst.share),
            *([experts] if routed else []),
            _verdicts(layer),
        )
    return table


def values_table(values: Iterable[AlignedValue], *, emulated: bool) -> Table:
    """A line for each value; own and inherited error where they are known of any."""
    values = list(values)
    whose = any(value.own is not None for value in values)
    table = Table(title=_title("Values", emulated))
    columns = ["step", "value", "error", "largest", "cosine", "close"]
    columns += [*_WHOSE] if whose else []
    for column in (*columns, "of allowed", "verdict"):
        left = column in ("value", "verdict")
        # A name stays whole, for grep; reasons may go on in the next line.
        whole = column != "verdict"
        justify: Any = "left" if left else "right"
        table.add_column(column, justify=justify, no_wrap=whole, overflow="fold")
    for value in values:
        total = value.total
        table.add_row(
            _step(value),
            _named(value),
            error_text(value),
            number_text(total.largest_absolute),
            "-" if total.cosine != total.cosine else f"{total.cosine:.6f}",
            "-" if total.close != total.close else f"{100 * total.close:.2f}%",
            *(_of_whom(value) if whose else []),
            _share(value.share),
            _verdict(value),
        )
    return table


def _of_whom(value: AlignedValue) -> list[str]:
    """By ``_WHOSE``: the largest own error, the bound of it, and what is inherited."""
    return [_largest(value.own), number_text(value.bound), _largest(value.inherited)]


def _title(text: str, emulated: bool) -> str:
    return f"{text} (emulated)" if emulated else text


def _step(value: AlignedValue) -> str:
    return f"{value.step} {value.phase}".rstrip()


def _within(name: str, layer: str) -> str:
    """A name without what the number of its layer says."""
    before, dot, rest = name.partition(f".{layer}.")
    return rest if dot and "." not in before.partition(".")[2] else name


def _named(value: AlignedValue) -> str:
    other = value.other_name
    return value.name if other in ("", value.name) else f"{value.name} | {other}"


def _share(share: float | None) -> str:
    return "-" if share is None else times_text(share)


def _largest(difference: Difference | None) -> str:
    return "-" if difference is None else number_text(difference.largest_absolute)


def _verdicts(layer: LayerSummary) -> str:
    if layer.verdicts[Verdict.OK] == len(layer.values):
        return Verdict.OK.value
    parts = [f"{layer.verdicts[each]} {each.value}" for each in SEVERITY if layer.verdicts[each]]
    return ", ".join(parts)


def _verdict(value: AlignedValue) -> str:
    return f"{value.verdict.value}: {value.reason}" if value.reason else value.verdict.value
