"""The page of an alignment without a browser: complete, escaped, the same every time."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

from glmc.check.align.page import alignment_page
from glmc.check.align.result import Alignment
from glmc.check.align.words import EMULATED, paragraph
from tests.check.align.alignments import alignment, value
from tests.observe.page.test_render import HOSTILE, embedded


def test_one_file_that_asks_for_nothing() -> None:
    html = alignment_page(alignment())
    assert not re.findall(r"<(?:link|img|script|iframe)[^>]+(?:src|href)=\"(?!data:)", html)
    assert not re.findall(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", html)
    assert "default-src 'none'" in html and '<meta name="generator" content="glmc">' in html[:400]


def test_same_alignment_same_bytes() -> None:
    assert alignment_page(alignment()) == alignment_page(alignment())


def test_every_value_stands_once() -> None:
    made = alignment()
    html = alignment_page(made)
    numbers = [int(number) for number in re.findall(r'data-value="(\d+)"', html)]
    assert numbers == list(range(len(made.values)))
    data = embedded(html)
    names = [(each["step"], data["texts"][each["name"]]) for each in data["values"]]
    assert names == [(each.step, each.name) for each in made.values]
    assert len(set(data["texts"])) == len(data["texts"])


def test_the_divergence_is_said_on_top_and_emulated_in_the_header() -> None:
    html = alignment_page(alignment())
    (found,) = re.findall(r'<div id="first" class="parted">\n<p class="lead">(.*)</p>', html)
    assert unescape(found).split() == paragraph(alignment()).split()
    assert html.index(found) < html.index("<table") and EMULATED in unescape(html)
    header = html[html.index("<header") : html.index("</header>")]
    assert '<span class="tag emulated">emulated</span>' in header
    real = replace(alignment(), facts=({}, {}))
    assert ">emulated</span>" not in alignment_page(real)


def test_marks_stand_in_text_and_in_words() -> None:
    html = alignment_page(alignment())
    assert html.count('aria-label="own, 2 of the bound">O</a>') == 2
    assert html.count('not finite on one side">FN</a>') == 2
    assert html.count('aria-label="unknown, error not known">?</a>') == 2


def test_details() -> None:
    data = embedded(alignment_page(alignment(), "dump/index.html"))
    texts = data["texts"]
    (own,) = [
        each for each in data["values"] if each["step"] == 0 and texts[each["verdict"]] == "own"
    ]
    assert texts[own["node"]] == "model.layers.1.self_attn#attention"
    assert texts[own["function"]] == "kunlun_ops.rope, kunlun_ops.attention"
    assert [texts[at] for at in own["passes"]] == ["rope", "rope_attention"]
    assert [texts[at] for at in own["advice"]] == [
        "glmc align A B --test FILE.py writes a test of the op that fails until it is right",
        "glmc inspect ARTIFACT --node 'model.layers.1.self_attn#attention' has its life from the "
        "model to the call",
    ]
    assert own["total"]["ulps"] == [60, 3, 1] and own["bound"] == 0.1
    assert [own[side]["numbers"][0] for side in ("total", "own", "inherited")] == [0.25, 0.2, 0.05]
    assert data["compile"] == "dump/index.html"
    routers = [each["router"] for each in data["values"] if "router" in each]
    assert len(routers) == 4
    assert routers[0] == {
        "tokens": 8,
        "agreeing": 6,
        "tied": False,
        "margins": [1e-4, 0.25],
        "ties": [1e-3, 1e-3],
    }
    (fail, _) = [each for each in data["values"] if each.get("share") == "inf"]
    assert fail["total"]["counts"] == [0, 3, 0, 1, 4]
    (known, _) = [each for each in data["values"] if "statistics" in each]
    assert known["statistics"][1] == [-1.0, 1.0, 0.25, 0.5, 0, 0]
    assert known["total"]["numbers"][0] == "nan"


def test_what_only_one_side_has_is_listed() -> None:
    html = alignment_page(alignment())
    assert "only in A: 1<" in html and "only in B" not in html
    assert "model.rotary_emb" in html and "4 values were not recorded" in html


def test_hostile_names_stay_text() -> None:
    bad = value(
        HOSTILE,
        other_name=HOSTILE,
        node=HOSTILE,
        module=HOSTILE,
        op=HOSTILE,
        source=HOSTILE,
        function=HOSTILE,
        passes=(HOSTILE,),
        reason=HOSTILE,
        dtype=HOSTILE,
        phase=HOSTILE,
        also=(HOSTILE,),
    )
    made = Alignment(
        HOSTILE,
        HOSTILE,
        ({"model": HOSTILE}, {}),
        (bad, replace(bad, layer=0, name=f"{HOSTILE}2", node="")),
        ((HOSTILE,), ()),
        (HOSTILE,),
        HOSTILE,
    )
    html = alignment_page(made, HOSTILE)
    assert html.count("</script>") == html.count("<script") == 2
    assert "<img" not in html and "<!--" not in html and "9149" not in html
    data = embedded(html)
    assert data["texts"][data["values"][0]["node"]] == HOSTILE
    markup = html.partition('<script type="application/json"')[0]
    assert set(re.findall(r'href="#n[^"]*"', markup)) == {
        f'href="{address}"' for address in re.findall(r"#n[\w%.&;=!*'(),:~-]+", markup)
    }


def test_an_empty_alignment() -> None:
    html = alignment_page(Alignment("a", "b", ({}, {}), (), ((), ())))
    assert embedded(html)["values"] == [] and "data-value" not in html.partition("<script")[0]
