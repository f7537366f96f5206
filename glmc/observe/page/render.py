"""The page as one self-contained file: styles, script and data inside, nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from glmc.observe.history.record import History
from glmc.observe.page import start
from glmc.observe.page.artifact import ArtifactFacts
from glmc.observe.page.data import page_data
from glmc.observe.page.guards import guard_rows
from glmc.observe.page.layers import layer_kinds
from glmc.observe.page.measured import Aligned, Timed
from glmc.observe.page.verdict import lost, verdict_of
from glmc.observe.spans import spans

PAGE = "index.html"
_TEMPLATES = "templates"
# In the order in which they are read: each uses only what stands before it when it is loaded.
_SCRIPTS = (
    "dom data node compare pass joins layout boxes graph kernels measured buffers chart memory "
    "story topics search keyboard main"
).split()
_STYLES = "colours frame start story pass graph kernels memory panel narrow print".split()


def page(
    history: History,
    facts: ArtifactFacts | None = None,
    timed: Timed | None = None,
    aligned: Aligned | None = None,
) -> str:
    """The HTML of a compile's page.

    ``facts`` are the artifact's, ``timed`` and ``aligned`` what was measured after the compile; the
    page says where they are not known. The same arguments give the same bytes. The template escapes
    every value; data stands in a JSON script in which no ``</`` can end the element.
    """
    verdict, main = verdict_of(history, facts), start.main_phase(history)
    kinds = layer_kinds(history, main)
    html: str = (
        environment()
        .get_template("page.html")
        .render(
            history=history,
            facts=facts,
            verdict=verdict,
            described=start.described(history, facts),
            became=start.became(history),
            main=main,
            example=start.example(history, kinds),
            kinds=kinds,
            tints=start.TINTS,
            cells=start.layer_cells(history, kinds, aligned),
            timeline=timed,
            aligned=aligned,
            steps=start.step_rows(history),
            lost=lost(history),
            guards=guard_rows(facts),
            functions=dict(facts.guards.vendor_functions) if facts is not None else {},
            style=assembled(_STYLES, "css"),
            script=assembled(_SCRIPTS, "js"),
            data=script_json(page_data(history, verdict, facts, timed, aligned)),
        )
    )
    return html


def environment() -> jinja2.Environment:
    """The templates of the page; every value is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("glmc.observe.page", _TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["spans"] = spans
    return made


def assembled(names: Sequence[str], ending: str) -> Markup:
    """Files of one kind, one after the other, to stand inside an element: without indents, blank
    lines and lines of comment, of which nothing depends."""
    files = resources.files("glmc.observe.page") / _TEMPLATES
    texts = ((files / f"{name}.{ending}").read_text(encoding="utf-8") for name in names)
    lines = (line.strip() for text in texts for line in text.splitlines())
    return Markup("\n".join(line for line in lines if line and not line.startswith("//")))


def script_json(data: Any) -> Markup:
    """JSON that can stand inside a ``script`` element: ``<`` is written as an escape."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028"))
