"""The page without a browser: one file, escaped, small, the same every time, honest."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from glmc.observe.history.record import History
from glmc.observe.history.times import without_times
from glmc.observe.page.data import page_data
from glmc.observe.page.render import page, script_json
from glmc.observe.page.verdict import verdict_of
from tests.observe.page.measurements import aligned, timed
from tests.observe.sample import FACTS, SIGMOID, history, step

HOSTILE = '</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\u2028{{ 7*1307 }}"'


def embedded(html: str) -> Any:
    """The data of the page, read as a browser reads it: up to the first end of the element."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', html, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def hostile() -> History:
    """Every text that a model or a pass may choose is an attack."""
    node = replace(SIGMOID, id=HOSTILE, op=HOSTILE, module=HOSTILE, value=HOSTILE, source=HOSTILE)
    made = history()
    miss = replace(made.steps[2].near_misses[0], node=HOSTILE, condition=HOSTILE, source=HOSTILE)
    bad = step(2, HOSTILE, (node,), numerics=HOSTILE, verdict=HOSTILE, near_misses=(miss,))
    return replace(made, model=HOSTILE, target=HOSTILE, versions={HOSTILE: HOSTILE}, steps=(bad,))


def test_one_file_that_asks_for_nothing() -> None:
    html = page(history(), FACTS)
    assert not re.findall(r"<(?:link|img|script|iframe)[^>]+(?:src|href)=\"(?!data:)", html)
    assert not re.findall(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", html)
    assert "default-src 'none'" in html


def test_same_history_same_bytes() -> None:
    assert page(history(), FACTS) == page(history(), FACTS)


def test_data_ends_no_element_and_starts_none() -> None:
    html = page(hostile(), FACTS)
    assert html.count("</script>") == html.count("<script") == 2
    assert "<img" not in html and "<!--" not in html and "9149" not in html
    assert embedded(html)["steps"][0]["name"] == HOSTILE
    assert "<" not in script_json({"a": ["</script>", "<!--"]})


def test_texts_and_nodes_stand_once() -> None:
    data = embedded(page(history()))
    assert len(set(data["strings"])) == len(data["strings"])
    rows = [json.dumps(row) for row in data["nodes"]]
    assert len(set(rows)) == len(rows)
    names = [data["strings"][row[0]] for row in data["nodes"]]
    assert names.count("mlp.gate#sigmoid") == 1, "the step that left it alone adds no row"


def test_calls_of_folded_layers_keep_their_numbers() -> None:
    block = page_data(history(), verdict_of(history(), None))["plans"][0]["blocks"][2]
    assert (block["layer"], block["like"]) == (1, [2])
    assert block["indices"] == [[[3, 2]], [[5, 2]]]


def test_ninety_layers_cost_no_more_than_one() -> None:
    made = history()
    many = tuple(
        replace(one, blocks=(*one.blocks[:2], replace(one.blocks[2], like=tuple(range(2, 92)))))
        for one in made.steps
    )
    small, large = (len(page(one).encode()) for one in (made, replace(made, steps=many)))
    assert large - small < 2_500 + 90 * 80, "a link for each layer, and its number in each step"
    assert large < 140_000, "most of it is the script, whatever the model"


def test_absent_is_said_to_be_absent() -> None:
    html = page(history())
    assert html.count(">not proved</td>") == 2 * 5, "the list and the checks; one step is proved"
    assert 'title="bitwise: equal on 6 inputs">equal on 6 inputs<' in html
    assert "None are recorded: this compile wrote no artifact." in html
    assert "where they have run in tests, they were emulated" in html
    assert "emulated" not in page(replace(history(), target="cpu"))
    bare = page(replace(history(), plans=(), target="", versions={}, expected_matches={}))
    assert "not lowered" in bare and "No counts are known for this model." in bare


def test_times_have_a_column_where_they_are_known() -> None:
    assert ">250 ms</td>" in page(history())
    html = page(without_times(history()))
    assert ">time</th>" not in html and "are in <code>times.json</code>" in html


def test_times_of_calls_come_with_a_timeline() -> None:
    html = page(history(), FACTS, timed())
    assert [plan["seconds"] for plan in embedded(html)["plans"]] == [None, [0.001] * 7]
    assert "The calls take 7,000.0 us (emulated) in decode of 1 sequence" in html
    assert '<a href="timeline.html">timeline</a>' in html
    assert "No kernel of a device was run or timed" not in html


def test_errors_of_nodes_come_with_an_alignment() -> None:
    html = page(history(), FACTS, None, aligned())
    assert "Aligned with stock.h5 (emulated): it first diverges at <a href" in html
    assert html.count('aria-label="layer 1, 1 wrong value"') == 1
    assert html.count('aria-label="layer 0"') == 1
    sound = replace(aligned(), first="", nodes={}, emulated=False, page="")
    html = page(history(), FACTS, None, sound)
    assert "Aligned with stock.h5: no divergence." in html and "wrong value" not in html


def test_nothing_is_said_of_what_was_not_measured() -> None:
    html = page(history(), FACTS)
    assert "No kernel of a device was run or timed" in html
    shown = html.partition("<script")[0]
    assert "Aligned with" not in shown and "The calls take" not in shown
    data = embedded(html)
    assert data["timed"] is data["aligned"] is None


def test_lost_matches_stand_in_the_open() -> None:
    made = history()
    lost = replace(made.steps[2], matches=made.steps[2].matches[:2])
    html = page(
        replace(made, steps=(*made.steps[:2], lost), expected_matches={"moe_gate": 3, "rope": 6})
    )
    assert "differs from what the model must have in moe_gate, rope; 1 near miss." in html
    assert ">differs</td>" in html and "the pass did not run" in html
    assert "the scores have one reader" in html
