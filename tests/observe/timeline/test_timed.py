"""Times of a compile's calls: read from a page and from a trace, and refused of another compile."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmc.errors import UsageError
from glmc.observe.page.render import page, script_json
from glmc.observe.timeline.by_call import BY_CALL
from glmc.observe.timeline.diff import diff
from glmc.observe.timeline.page import diff_page, one_page
from glmc.observe.timeline.steps import select
from glmc.observe.timeline.timed import read_timed
from glmc.observe.timeline.totals import totals
from tests.cli.test_damaged import damage
from tests.observe.page.test_render import embedded
from tests.observe.sample import FACTS, history
from tests.observe.timeline.sample import VLLM, kernel, timeline
from tests.observe.timeline.toy import toy_timeline, toy_trace


def html() -> str:
    made = toy_timeline()
    return one_page(made, totals(made, select(made, "decode", None)))


def test_the_times_of_a_page(tmp_path: Path) -> None:
    path = tmp_path / "timeline.html"
    path.write_text(html(), encoding="utf-8")
    timed = read_timed(path, history(), tmp_path / "sub" / "index.html")
    assert (timed.label, timed.how, timed.page) == ("run.json", "emulated", "../timeline.html")
    decode, prefill = timed.phases["decode"], timed.phases["prefill"]
    assert decode.seconds == tuple(pytest.approx(1e-6 * at) for at in range(1, 8))
    assert decode.shown and not prefill.shown and decode.us == "28.0"


def test_of_two_timelines_that_of_this_compile(tmp_path: Path) -> None:
    path = tmp_path / "two.html"
    other = timeline(kernel("gemv", 0, 4), label="vllm", model="toy-moe")
    mine = toy_timeline()
    for a, b in ((mine, other), (other, mine)):
        path.write_text(diff_page(a, b, diff(a, b, None, None)), encoding="utf-8")
        assert read_timed(path, history(), tmp_path / "i").label == "run.json"


def test_the_times_of_a_trace(tmp_path: Path) -> None:
    path = toy_trace(tmp_path / "run.json")
    timed = read_timed(path, history(), tmp_path / "index.html")
    assert timed.page == "" and timed.how == "emulated" and list(timed.phases) == ["decode"]
    assert timed.phases["decode"].seconds == (1e-6, None, None, 4e-6, None, None, None)
    assert not timed.phases["decode"].shown


def test_another_compile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "timeline.html"
    path.write_text(html(), encoding="utf-8")
    for made, found in (
        (replace(history(), target="cuda"), "toy-moe for xpu"),
        (replace(history(), prefix="layers"), "call 1 of prefill is for model.layers.0.mlp.gate"),
    ):
        with pytest.raises(UsageError, match="of another compile") as raised:
            read_timed(path, made, tmp_path / "i")
        assert str(raised.value.found).startswith(found)
        assert raised.value.remedy == "glmc run ARTIFACT --timeline FILE"
    with pytest.raises(UsageError, match="of another compile") as raised:
        read_timed(VLLM, history(), tmp_path / "i")
    assert raised.value.found == "a timeline of no plan of glmc's"


def test_what_is_no_timeline_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content, said in (
        ("letter", "no profiler that is known"),
        (page(history(), FACTS), "not the page of a timeline"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(UsageError, match=said):
            read_timed(path, history(), tmp_path / "i")
    with pytest.raises(UsageError, match="can't be read"):
        read_timed(tmp_path / "none", history(), tmp_path / "i")


def test_damaged_data_is_an_error_of_ours_or_read(tmp_path: Path) -> None:
    whole, path, luck = html(), tmp_path / "damaged.html", random.Random(0)
    data = embedded(whole)
    refused = 0
    for _ in range(60):
        bad: dict[str, Any] = json.loads(json.dumps({BY_CALL: data[BY_CALL]}))
        damage(bad, luck)
        try:
            text = script_json({**data, **bad})
        except ValueError:
            continue  # a number that no page has
        path.write_text(
            f'<meta name="generator" content="glmc"><script type="application/json" id="data">'
            f"{text}</script>",
            encoding="utf-8",
            errors="replace",
        )
        try:
            page(history(), FACTS, read_timed(path, history(), tmp_path / "i"))
        except UsageError:
            refused += 1
    assert refused > 20
