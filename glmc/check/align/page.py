"""An alignment as one HTML page: the first divergence in words, maps of heat, details of nodes.

The maps need no script. The details of every value stand once, as JSON that a script shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from glmc.check.align.by_node import by_node
from glmc.check.align.heat_map import OF_BOUND, OF_MAGNITUDE, error_of, step_maps, step_title
from glmc.check.align.result import AlignedValue, Alignment, Difference, RouterAgreement, Verdict
from glmc.check.align.ulps import BINS
from glmc.check.align.words import EMULATED, paragraph, tries
from glmc.observe.page.aligned import BY_NODE
from glmc.observe.page.embedded import ALIGNMENT
from glmc.observe.page.render import assembled, environment, script_json
from glmc_runtime.record.tensors import Statistics

_STYLES = "colours frame start pass panel heat narrow print".split()
_SCRIPTS = "dom heat".split()
_FACTS = ("made_by", "model", "target", "dtype", "version")
_SIDES = ("total", "own", "inherited")


def alignment_page(alignment: Alignment, compile_page: str | None = None) -> str:
    """The HTML of an alignment. ``compile_page`` is the address of the page of B's compile, to
    which nodes lead. The same arguments give the same bytes."""
    facts = [
        (name, tuple(str(each.get(name) or "") for each in alignment.facts)) for name in _FACTS
    ]
    html: str = (
        environment()
        .get_template("heat.html")
        .render(
            alignment=alignment,
            first=" ".join(paragraph(alignment).split("\n")),
            note=EMULATED,
            facts=[(name, texts) for name, texts in facts if any(texts)],
            maps=step_maps(alignment),
            legend=_legend(),
            style=assembled(_STYLES, "css"),
            script=assembled(_SCRIPTS, "js"),
            data=script_json(_data(alignment, compile_page)),
        )
    )
    return html


def _legend() -> list[str]:
    edges = zip(OF_BOUND[1:], OF_MAGNITUDE[1:], strict=True)
    return [
        "no error",
        *(f"to {bound:g} of the bound, or {size:g} of the magnitude" for bound, size in edges),
        "beyond",
    ]


def _data(alignment: Alignment, compile_page: str | None) -> dict[str, Any]:
    """Each text stands once, in ``texts``; elsewhere is its place there."""
    places: dict[str, int] = {}

    def place(text: str) -> int:
        return places.setdefault(text, len(places))

    values = []
    for value in alignment.values:
        wrong = value.verdict in (Verdict.OWN, Verdict.FAIL)
        advice = tuple(tries(alignment, value)) if wrong else ()
        values.append(_details(value, advice, place))
    return {
        "page": ALIGNMENT,
        BY_NODE: by_node(alignment),
        "sides": [alignment.expected, alignment.actual],
        "compile": compile_page,
        "last": BINS - 1,
        "texts": list(places),
        "values": values,
    }


def _details(
    value: AlignedValue, advice: tuple[str, ...], place: Callable[[str], int]
) -> dict[str, Any]:
    """What is empty or not known is left out."""
    texts = {
        "title": step_title(value),
        "name": value.name,
        "other": value.other_name if value.other_name != value.name else "",
        "node": value.node,
        "module": value.module,
        "op": value.op,
        "source": value.source,
        "function": value.function,
        "paired": value.paired_by,
        "dtype": value.dtype,
        "shape": str(list(value.shape)),
        "numerics": value.numerics or "",
        "verdict": value.verdict.value,
        "reason": value.reason,
        "error": error_of(value).words,
    }
    lists = {"passes": value.passes, "also": value.also, "advice": advice}
    sides = ((name, getattr(value, name)) for name in _SIDES)
    found = {
        "step": value.step,
        "layer": value.layer,
        **{name: place(text) for name, text in texts.items() if text},
        **{name: [*map(place, some)] for name, some in lists.items() if some},
        **{name: _difference(each) for name, each in sides if each is not None},
        "bound": _number(value.bound),
        "share": _number(value.share),
        "router": _router(value.router),
        "statistics": value.statistics and [*map(_statistics, value.statistics)],
    }
    return {name: each for name, each in found.items() if each is not None}


def _difference(difference: Difference) -> dict[str, Any]:
    ulps = list(difference.ulps)
    while ulps and not ulps[-1]:
        ulps.pop()
    numbers = ("largest_absolute", "largest_relative", "rmse", "relative", "cosine", "close")
    counts = ("expected_nan", "actual_nan", "expected_inf", "actual_inf", "apart")
    return {
        "elements": difference.elements,
        "numbers": [_number(getattr(difference, name)) for name in numbers],
        "counts": [getattr(difference, name) for name in counts],
        "ulps": ulps,
    }


def _router(router: RouterAgreement | None) -> dict[str, Any] | None:
    if router is None:
        return None
    return {
        "tokens": router.tokens,
        "agreeing": router.agreeing,
        "tied": router.tied,
        "margins": None if router.margins is None else [*map(_number, router.margins)],
        "ties": None if router.ties is None else [*map(_number, router.ties)],
    }


def _statistics(statistics: Statistics) -> list[Any]:
    return [_number(each) for each in vars(statistics).values()]


def _number(number: float | None) -> Any:
    """To six digits; what JSON has no number for is a text."""
    if number is None or isinstance(number, int):
        return number
    short = float(f"{number:.6g}")
    return short if math.isfinite(short) else str(short)
