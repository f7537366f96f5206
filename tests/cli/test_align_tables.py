"""Tables of an alignment: a line a layer, or a line a value."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from glmc.check.align.result import Verdict
from glmc.check.align.summary import by_layer
from glmc.cli.align_report import show
from glmc.cli.align_tables import layers_table, values_table
from glmc.console import PlainConsole
from tests.check.align.aligned_values import (
    a_router,
    a_value,
    an_alignment,
    emulated,
    off_by,
)

VALUES = (
    a_value(None, "embed", 0.0),
    a_value(0, "mlp", 0.02),
    a_value(1, "self_attn", 0.4, verdict=Verdict.FAIL, reason="too far", share=3.0),
    a_router(1, 1e-4, 1e-3),
)


def text_of(table: Table) -> list[list[str]]:
    out = io.StringIO()
    PlainConsole(file=out, width=200).print(table)
    lines = out.getvalue().splitlines()
    return [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
        for line in lines
        if "│" in line or "┃" in line
    ]


def test_a_line_for_each_layer_with_its_worst_value() -> None:
    header, before, first, second = text_of(
        layers_table(by_layer(VALUES), emulated=False, width=200)[0]
    )
    assert header[-2:] == ["same experts", "verdict"]
    assert before[:4] == ["0 prefill", "before", "1", "embed.Linear.0.forward_output.0"]
    assert before[4:] == ["0", "0%", "-", "ok"]
    assert first[3] == "mlp.Linear.0.forward_output.0"
    assert second[1:5] == ["1", "2", "self_attn.Linear.0.forward_output.0", "0.2"]
    assert second[5:] == ["300%", "7 of 8", "1 fail, 1 ok"]


def test_the_line_of_a_layer_counts_what_it_inherits() -> None:
    some = (a_value(1, "a", reason="inherited"), a_value(1, "b"))
    _, row = text_of(layers_table(by_layer(some), emulated=False, width=200)[0])
    assert row[-1] == "1 inherited, 1 ok"


def test_a_line_for_each_value_with_own_error_where_it_is_known() -> None:
    rows = text_of(values_table(VALUES, emulated=False, width=200)[0])
    assert rows[0][:5] == ["step", "value", "error", "largest", "cosine"]
    assert rows[0][5:] == ["close", "of allowed", "verdict"]
    assert rows[3][-1] == "fail: too far"
    assert rows[4][2] == "1 of 8 tokens"
    own = a_value(0, "mlp", own=off_by(0.1), inherited=off_by(0.2), bound=0.3)
    header, row = text_of(values_table([own], emulated=False, width=200)[0])
    assert header[6:9] == ["own", "own allowed", "inherited"]
    assert row[6:9] == ["0.4", "0.3", "0.8"]


LONG = a_value(
    1,
    "self_attn.a_module_with_a_long_name.and_one_below_it",
    0.1234,
    own=off_by(0.000123),
    inherited=off_by(0.000456),
    bound=1.23e-06,
    share=216034.0,
    verdict=Verdict.OWN,
    reason="off by 0.000492 where 1.23e-06 is allowed",
)
MANY = (*VALUES, LONG)


@pytest.mark.parametrize("width", [80, 100, 120, 160])
@pytest.mark.parametrize("every", [False, True])
def test_no_number_is_cut_and_the_verdict_stays(
    width: int, every: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    show(an_alignment(*MANY), every=every, worst=False)
    said = capsys.readouterr().out
    box = [line for line in said.splitlines() if line[:1] in tuple("│┃┏└")]
    assert box and max(map(len, box)) <= width and len(set(map(len, box))) == 1
    cells = [[cell.strip() for cell in line[1:-1].split("│")] for line in box if line[0] == "│"]
    header = [" ".join(each) for each in titles(box)]
    assert header[-1] == "verdict" and "error" in header and "of allowed" in header
    words = {word for row in cells for cell in row for word in cell.split()}
    numbers = {"0.0617", "2.16e+05"}
    numbers |= {"300%", "own:", "0.000492", "1.23e-06"} if every else {"own,", "fail,"}
    assert numbers <= words
    joined = "".join(row[header.index("value" if every else "worst value")] for row in cells)
    assert "self_attn.a_module_with_a_long_name.and_one_below_it.Linear.0" in joined
    everything = ["step", "value", "error", "largest", "cosine", "close"]
    if not every:
        everything = ["step", "layer", "values", "worst value", "error"]
    everything += ["own", "own allowed", "inherited", "of allowed"]
    everything += ["verdict"] if every else ["same experts", "verdict"]
    left = [each for each in everything if each not in header]
    note = f"no room in {width} columns: {', '.join(left)}; --csv FILE and --json have all"
    assert (note in said) == bool(left)
    assert left or width == 160


def titles(box: list[str]) -> list[list[str]]:
    """The words of each title, which may stand on several lines."""
    lines = [line[1:-1].split("┃") for line in box if line[0] == "┃"]
    return [" ".join(parts).split() for parts in zip(*lines, strict=True)]


def test_all_is_said_and_the_worst_comes_first_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    alignment = emulated(an_alignment(*VALUES, unpaired=(("x",), ("y",))))
    show(alignment, every=False, worst=False)
    plain = capsys.readouterr().out
    assert "emulated: a side was computed by stand-ins" in plain
    assert "the worst value of each (emulated)" in plain.replace("\n", " ")
    assert "only in B: 1 tensor, such as y" in plain
    assert "The first divergence is model.layers.1.self_attn" in plain
    show(alignment, every=False, worst=True)
    lines = capsys.readouterr().out.splitlines()
    first = next(line for line in lines if "│" in line)
    assert "fail: too far" in first and "300%" in first
    show(an_alignment(), every=True, worst=False)
    assert "nothing was compared" in capsys.readouterr().out
