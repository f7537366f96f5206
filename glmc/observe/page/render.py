"""The page as one self-contained file: styles, script and data inside, nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from glmc.observe.history.record import History
from glmc.observe.page.data import page_data
from glmc.observe.page.facts import figures, guard_rows, lost, step_rows
from glmc_runtime.format.manifest import Guards, Limits, PhaseEntry

PAGE = "index.html"
# In the order in which they are read: each uses only what stands before it when it is loaded.
_SCRIPTS = ("dom", "data", "node", "diff", "layout", "graph", "kernels", "memory", "search", "main")


def page(
    history: History,
    guards: Guards | None = None,
    limits: Limits | None = None,
    phases: Sequence[PhaseEntry] = (),
) -> str:
    """The HTML of a compile's page.

    ``guards``, ``limits`` and ``phases`` are the artifact's; the page says where they are not
    known, and has no column of times where the history has none. The same arguments give the same
    bytes. The template escapes every value; data stands in
    a JSON script in which no ``</`` can end the element.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("glmc.observe.page", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    files = resources.files("glmc.observe.page") / "templates"
    scripts = [(files / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    html: str = environment.get_template("page.html").render(
        history=history,
        timed=any(step.seconds is not None for step in history.steps),
        figures=figures(history),
        steps=step_rows(history),
        lost=lost(history),
        guards=guard_rows(guards, limits, phases),
        functions=dict(guards.vendor_functions) if guards is not None else {},
        style=Markup((files / "page.css").read_text(encoding="utf-8")),
        script=Markup("".join(scripts)),
        data=script_json(page_data(history)),
    )
    return html


def script_json(data: Any) -> Markup:
    """JSON that can stand inside a ``script`` element: ``<`` is written as an escape."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028"))
