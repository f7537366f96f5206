"""docs/performance.md: its short table is of the measured ones; results before the method."""

from __future__ import annotations

import re
from collections.abc import Iterable

from glmc_runtime.engine.loaded import CAPTURED_TOKENS
from glmc_runtime.engine.options import LoadOptions
from tests.docs.markdown import ROOT, section, table_rows

PAGE = ROOT / "docs" / "performance.md"
DEVICE = "NVIDIA H200"


def columns(title: str) -> list[dict[str, str]]:
    """Rows of a measured table by the names of its columns."""
    lines = section(PAGE, title).splitlines()
    head = next(line for line in lines if line.startswith("|"))
    names = [name.strip() for name in head.strip("|").split("|")]
    return [dict(zip(names, row, strict=True)) for row in table_rows("\n".join(lines))]


def test_the_short_table_is_of_the_measured_ones() -> None:
    rows = table_rows(section(PAGE, "Steps and their floors"))
    assert len(rows) == 7
    for step, *figures in rows:
        phase, model, size = re.fullmatch(
            r"(\w+), (\S+), (?:batch )?(\d+)(?: tokens)?", step
        ).groups()
        sizes = {"decode": "batch", "prefill": "tokens"}[phase]
        (measured,) = [
            row
            for row in columns(f"{phase.capitalize()}, milliseconds, {DEVICE}")
            if row["model"].startswith(model) and row[sizes] == size
        ]
        names = ("eager", "compile", "glmc", "floor", "of the floor")
        assert figures == [measured.get(name, "") for name in names], step


def test_results_come_before_the_method() -> None:
    titles = [line for line in PAGE.read_text().splitlines() if line.startswith("## ")]
    assert titles[:3] == ["## Beside vLLM", "## Steps and their floors", "## Measured"]
    assert titles[-2:] == ["## How it is measured", "## Not measured"]


def test_what_is_said_of_bars_beside_vllm_is_what_the_table_says() -> None:
    text = " ".join(section(PAGE, "Beside vLLM").split("\n"))
    rows = [row for row in table_rows(section(PAGE, "Beside vLLM")) if len(row) == 12]
    barred = [row for row in rows if row[8]]
    met = [row for row in barred if row[9] == "met"]
    assert f"Of {len(rows)} rows {len(barred)} have a bar" in text
    assert f"of which {len(met)} are met" in text
    for row in barred:  # a printed ratio is rounded: one at its bar may be on either side
        ratio, bar = float(row[4].strip("*")), float(row[8])
        assert row[9] in ("met", "**missed**")
        assert ratio == bar or (row[9] == "met") == (ratio > bar), row[:2]


def ratios(title: str, work: str) -> dict[str, float]:
    """Ratios of the rows whose work matches, by their work."""
    rows = [row for row in table_rows(section(PAGE, title)) if len(row) == 5]
    rows = [row for row in rows if re.match(work, row[0])]
    assert rows, work
    return {row[0]: float(row[3].strip("*")) for row in rows}


def spread(values: Iterable[float]) -> tuple[float, float]:
    """The least and the most."""
    kept = list(values)
    return min(kept), max(kept)


NINE = "GLM-4-9B-0414, context 1024, ms"
REQUESTS = "GLM-4-9B-0414, requests, context 1024, ms"
AIR = "GLM-4.5-Air, 12 of 46 layers, context 768, ms"


def test_what_is_said_of_steps_inside_vllm_is_of_the_tables() -> None:
    text = " ".join(section(PAGE, "Inside vLLM").split())
    many = [
        ratio
        for work, ratio in ratios(AIR, "decode, batch").items()
        if int(work.rpartition(" ")[2]) >= 64
    ]
    least, most = (round(100 * each) - 100 for each in spread(many))
    assert f"64 to 256 sequences are ahead by {least} to {most} %." in text
    assert ratios(NINE, "decode")["decode, batch 256"] == 1.01  # which is called level


def test_the_readme_says_of_both_tables_what_they_say() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    least, most = spread(ratios(NINE, "decode").values())
    again = re.search(r"decode ([\d.]+) at batch 1 and ([\d.]+) at 256", PAGE.read_text())
    assert again is not None and float(again[2]) == least
    assert f"decode of the 9B {again[1]} ({most:.2f} in another run) to {least:.2f} times" in text
    first = ratios(REQUESTS, "first token")
    p50, p99 = first["first token, p50"], first["first token, p99"]
    assert f"first token under load {p50:.2f} (p50) and {p99:.2f} (p99)" in text
    least, most = spread(ratios(AIR, "decode").values())
    assert f"decode of GLM-4.5-Air {most:.2f} to {least:.2f}]" in text
    beside = [row for row in table_rows(section(PAGE, "Beside vLLM")) if len(row) == 12]
    least, most = spread(float(row[4].strip("*")) for row in beside if row[1].startswith("decode"))
    assert f"decode of four models {least:.2f} to {most:.2f} times as fast" in text


def test_what_is_said_of_rows_beside_vllm_is_what_they_have() -> None:
    text = " ".join(section(PAGE, "Beside vLLM").split())
    rows = [row for row in table_rows(section(PAGE, "Beside vLLM")) if len(row) == 12]
    shown = {(row[0].split(",")[0], row[1]): row[4].strip("*") for row in rows}
    assert f"where the table has {shown['GLM-4-9B-0414', 'first token of 512']}" in text
    air = [shown["GLM-4.5-Air", f"decode, batch {batch}, context 768"] for batch in (16, 64)]
    assert f"Of Air it has {air[0]} and {air[1]} for decode of 16 and 64" in text
    large = shown["GLM-4-32B-0414", "decode, batch 64"]
    prompts = shown["GLM-4-32B-0414", "first tokens of 16 prompts, 9539 tokens"]
    assert f"Of the 32B it has {large} at 64 sequences and {prompts} for 16 prompts" in text


def test_what_is_said_of_prefill_graphs_is_what_is_captured() -> None:
    text = " ".join(section(PAGE, "Beside vLLM").split())
    assert LoadOptions().prefill_graphs is False
    assert "`prefill_graphs=True`, which is not the default" in text
    assert f"prefills up to {CAPTURED_TOKENS} tokens" in text
