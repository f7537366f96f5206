"""An alignment as maps of heat: for each step a table of layers by ops in order of execution.

What is outside the layers stands in a row of its own, before or after them. A cell is as hot as
own error is near its bound; where there is no bound, as the root mean square of the error is near
that of the values.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from glmc.check.align.result import AlignedValue, Alignment, Verdict
from glmc.check.align.summary import INHERITED, is_inherited, standings
from glmc_runtime.command.output import counted
from glmc_runtime.format.tensor_key import INPUT, PARAMS, parse_key

OF_BOUND = (0.0, 0.1, 0.5, 1.0, 10.0)
OF_MAGNITUDE = (0.0, 1e-5, 1e-3, 1e-2, 1e-1)
MARKS = {Verdict.OK: "", Verdict.OWN: "O", Verdict.FAIL: "F", Verdict.UNKNOWN: "?"}
NOT_FINITE, NOTHING, FROM_BEFORE = "N", "·", "I"
_KINDS = {INPUT: "input ", PARAMS: "parameter "}


@dataclass(frozen=True)
class Error:
    """``size`` as a share of ``of``; None where nothing is known. ``heat`` is 0 to 5."""

    size: float | None
    of: str
    heat: int | None

    @property
    def words(self) -> str:
        return "error not known" if self.size is None else f"{self.size:.3g} of the {self.of}"


@dataclass(frozen=True)
class Cell:
    """``number`` is the value's place in the alignment, ``address`` leads to its details."""

    number: int
    text: str
    address: str
    mark: str
    verdict: str
    error: Error
    not_finite: bool

    @property
    def label(self) -> str:
        found = f"{self.verdict}, {self.error.words}"
        return f"{found}, not finite on one side" if self.not_finite else found


@dataclass(frozen=True)
class Row:
    """A layer; None is an op that it does not have."""

    layer: int
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class StepMap:
    """``columns`` are the ops of ``rows``; ``before`` and ``after`` are of no layer."""

    step: int
    title: str
    counts: str
    before: tuple[Cell, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    after: tuple[Cell, ...]


def step_maps(alignment: Alignment) -> tuple[StepMap, ...]:
    """The map of each step, in order; every value has one cell."""
    values = alignment.values
    cells = [
        (value, _cell(number, value, address))
        for number, (value, address) in enumerate(zip(values, addresses(alignment), strict=True))
    ]
    steps = sorted({value.step for value in values})
    return tuple(
        _step_map(step, [(value, cell) for value, cell in cells if value.step == step])
        for step in steps
    )


def addresses(alignment: Alignment) -> list[str]:
    """Of each value the address that leads to its cell and opens its details."""
    named = Counter((value.step, value.node) for value in alignment.values)
    return [_address(value, alone=named[value.step, value.node] == 1) for value in alignment.values]


def step_title(value: AlignedValue) -> str:
    """``prefill``, ``decode 1``; of a file that names no phase ``step 1``."""
    if not value.phase:
        return f"step {value.step}"
    return f"{value.phase} {value.step}" if value.step else value.phase


def error_of(value: AlignedValue) -> Error:
    """Relative to the bound where there is one, else to the magnitude of what is expected."""
    if value.own is not None and value.bound is not None:
        # The largest error need not be where most of what is allowed is taken.
        share = value.share
        share = _share(value.own.largest_absolute, value.bound) if share is None else share
        return _error(share, "bound", OF_BOUND)
    difference = value.total if value.own is None else value.own
    return _error(difference.relative, "magnitude", OF_MAGNITUDE)


def node_address(node: str) -> str:
    """``#node=ID`` as the script of the page writes it."""
    return f"#node={_quoted(node)}"


def _share(error: float, allowed: float) -> float:
    if not error:
        return 0.0
    return error / allowed if allowed else math.inf


def _error(size: float, of: str, edges: Sequence[float]) -> Error:
    if math.isnan(size):
        return Error(None, of, None)
    return Error(size, of, bisect.bisect_left(edges, size))


def _quoted(text: str) -> str:
    return quote(text, safe=",:!*'()")


def _address(value: AlignedValue, *, alone: bool) -> str:
    parts = [node_address(value.node)] if value.node else []
    parts += [] if value.node and alone else [f"{'&' if parts else '#'}name={_quoted(value.name)}"]
    return f"{''.join(parts)}&step={value.step}"


def _cell(number: int, value: AlignedValue, address: str) -> Cell:
    inherited = is_inherited(value)
    mark = FROM_BEFORE if inherited else MARKS[value.verdict]
    mark += NOT_FINITE if value.total.non_finite else ""
    return Cell(
        number,
        op_text(value),
        address,
        mark or NOTHING,
        INHERITED if inherited else value.verdict.value,
        error_of(value),
        value.total.non_finite,
    )


def op_text(value: AlignedValue) -> str:
    """The value's name relative to its layer: ``self_attn.o_proj``, ``self_attn.rope output 1``."""
    key = parse_key(value.name)
    if key is None:
        return _relative(value.name, value.layer)
    # A class begins with a capital and is said by its module's name; an op is not.
    op = "" if key.class_name[:1].isupper() else key.class_name
    path = ".".join(filter(None, (key.module, op))) or key.class_name
    # Of a class the number is that of the instance among all layers, and no place in one of them.
    number = f" call {key.call}" if key.call and op else ""
    kind = _KINDS.get(key.kind, "" if key.name == "0" else "output ")
    return f"{_relative(path, value.layer)}{number}{f' {kind}{key.name}' if kind else ''}"


def _relative(path: str, layer: int | None) -> str:
    if layer is None:
        return path
    _, found, own = f"{path}.".partition(f".{layer}.")
    return (own.removesuffix(".") or "layer") if found else path


def _step_map(step: int, cells: Sequence[tuple[AlignedValue, Cell]]) -> StepMap:
    layers: dict[int, dict[str, Cell]] = {}
    before: list[Cell] = []
    after: list[Cell] = []
    for value, cell in cells:
        if value.layer is not None:
            row = layers.setdefault(value.layer, {})
            row[_unused(cell.text, row)] = cell
        else:
            (after if layers else before).append(cell)
    columns = _merged(tuple(row) for row in layers.values())
    return StepMap(
        step,
        step_title(cells[0][0]),
        _counts(value for value, _ in cells),
        tuple(before),
        columns,
        tuple(Row(layer, tuple(map(layers[layer].get, columns))) for layer in sorted(layers)),
        tuple(after),
    )


def _unused(text: str, row: dict[str, Cell]) -> str:
    """The text, with a number where the layer has one of that name already."""
    names = (f"{text} ({number})" for number in range(2, len(row) + 3))
    return text if text not in row else next(name for name in names if name not in row)


def _merged(rows: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """All names of all rows; each after the one that it follows in its row."""
    names: list[str] = []
    for row in dict.fromkeys(rows):
        place = 0
        for name in row:
            if name not in names:
                names.insert(place, name)
            place = names.index(name) + 1
    return tuple(names)


def _counts(values: Iterable[AlignedValue]) -> str:
    values = list(values)
    return f"{counted(len(values), 'value')}: {', '.join(standings(values))}"
