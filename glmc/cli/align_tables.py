"""Tables of an alignment: a line for each layer, or for each value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich.table import Table

from glmc.check.align.result import AlignedValue, Difference, Verdict
from glmc.check.align.summary import LayerSummary, standings
from glmc.check.align.words import error_text, number_text, times_text
from glmc.cli.fitted_table import Column, fitted

Shown = tuple[Table, tuple[str, ...]]
"""A table, and the columns that had no room in it."""


def layers_table(layers: Iterable[LayerSummary], *, emulated: bool, width: int) -> Shown:
    """Of each layer its worst value, whose error that is where it is known, how much of what is
    allowed it takes, and all verdicts."""
    layers = list(layers)
    worst = [layer.worst for layer in layers]
    names = tuple(_within(layer.worst.name, layer.layer) for layer in layers)
    experts = tuple(f"{one.agreeing} of {one.routed}" if one.routed else "-" for one in layers)
    columns = [
        Column("step", tuple(map(_step, worst))),
        Column("layer", tuple(layer.layer for layer in layers), text=True),
        Column("values", tuple(str(len(layer.values)) for layer in layers), left_out=0),
        Column("worst value", names, name=True),
        Column("error", tuple(map(error_text, worst))),
        *_of_whom(worst),
        Column("of allowed", tuple(_share(each.share) for each in worst)),
    ]
    if any(layer.routed for layer in layers):
        columns.append(Column("same experts", experts, left_out=2))
    columns.append(Column("verdict", tuple(map(_verdicts, layers)), text=True))
    return fitted(_title("Layers, with the worst value of each", emulated), columns, width)


def values_table(values: Iterable[AlignedValue], *, emulated: bool, width: int) -> Shown:
    """A line for each value; own and inherited error where they are known of any."""
    values = list(values)

    def column(title: str, cell: Callable[[AlignedValue], str], left_out: int) -> Column:
        return Column(title, tuple(map(cell, values)), left_out=left_out)

    columns = [
        Column("step", tuple(map(_step, values))),
        Column("value", tuple(map(_named, values)), name=True),
        Column("error", tuple(map(error_text, values))),
        column("largest", lambda value: number_text(value.total.largest_absolute), 2),
        column("cosine", _cosine, 1),
        column("close", _close, 0),
        *_of_whom(values),
        Column("of allowed", tuple(_share(each.share) for each in values)),
        Column("verdict", tuple(map(_verdict, values)), text=True),
    ]
    return fitted(_title("Values", emulated), columns, width)


def _of_whom(values: Sequence[AlignedValue]) -> list[Column]:
    """The largest own error, the bound of it, and what is inherited, where any of it is known."""
    if all(value.own is None for value in values):
        return []
    return [
        Column("own", tuple(_largest(value.own) for value in values), left_out=5),
        Column("own allowed", tuple(number_text(value.bound) for value in values), left_out=3),
        Column("inherited", tuple(_largest(value.inherited) for value in values), left_out=4),
    ]


def _cosine(value: AlignedValue) -> str:
    cosine = value.total.cosine
    return "-" if cosine != cosine else f"{cosine:.6f}"


def _close(value: AlignedValue) -> str:
    close = value.total.close
    return "-" if close != close else f"{100 * close:.2f}%"


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
    parts = standings(layer.values)
    if parts == [f"{len(layer.values):,} {Verdict.OK.value}"]:
        return Verdict.OK.value
    return ", ".join(parts)


def _verdict(value: AlignedValue) -> str:
    return f"{value.verdict.value}: {value.reason}" if value.reason else value.verdict.value
