"""docs/performance.md: its short table is of the measured ones; results before the method."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from bench.gpu.beside_doc import FIRST_MARK, LAST_MARK, newest, tables_of
from bench.gpu.gpu_results import load_results
from bench.gpu.gpu_table import between_marks, markdown
from glmc_runtime.engine.loaded import CAPTURED_TOKENS
from glmc_runtime.engine.options import LoadOptions
from tests.docs.markdown import ROOT, section, table_rows

PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "bench" / "results" / "beside_vllm"
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
    said = "decode of four models, three of them cut to fewer layers"
    assert f"{said}, {least:.2f} to {most:.2f} times as fast" in text


def beside() -> dict[tuple[str, str], list[str]]:
    """The rows beside vLLM by model and work."""
    rows = [row for row in table_rows(section(PAGE, "Beside vLLM")) if len(row) == 12]
    return {(row[0].split(",")[0], row[1]): row for row in rows}


def ratio(row: list[str]) -> float:
    return float(row[4].strip("*"))


def test_the_table_beside_vllm_is_made_of_its_results() -> None:
    runs = load_results([RESULTS / f"{name}.json" for name in ("9b", "32b", "air", "47")])
    text = PAGE.read_text("utf-8")
    made = markdown(tables_of(runs, newest(runs)))
    assert between_marks(text, made, FIRST_MARK, LAST_MARK) == text
    assert {path.stem for path in RESULTS.iterdir()} == {"9b", "32b", "air", "47"}


def test_what_is_said_of_rows_beside_vllm_is_what_they_have() -> None:
    text = " ".join(section(PAGE, "Beside vLLM").split())
    rows = beside()
    with_graphs = ratio(rows["GLM-4-9B-0414", "first token of 512"])
    level = [row[:2] for row in rows.values() if float(row[5].split(" to ")[0]) <= 1]
    assert level == [
        ["GLM-4-9B-0414", "first token of 512, no device graphs"],
        ["GLM-4-9B-0414", "first token of 8192"],
        ["GLM-4-9B-0414", "first tokens of 16 prompts, 9539 tokens"],
        ["GLM-4-32B-0414, 30 of 61 layers", "first token of 8192"],
    ]
    assert f"in every round of {len(rows) - len(level)} of the {len(rows)} rows" in text
    above = [float(rows["GLM-4.5-Air", "decode, batch 256, context 768"][at]) for at in (6, 3, 2)]
    over = [each - above[0] for each in (above[2] / 1.2, *above[1:])]
    assert over == pytest.approx([0.7, 2.8, 3.6], abs=0.06)
    assert "bar would leave 0.7 ms above the floor, where ours takes 2.8 and vLLM 3.6" in text
    slower = ratio(rows["GLM-4-9B-0414", "first token of 512, no device graphs"])
    assert f"of the 9B they are {slower:.2f} in place of {with_graphs:.2f}" in text
    firsts = [ratio(rows[name, "first token of 2048"]) for name in ("GLM-4.5-Air", "GLM-4.7")]
    assert f"vLLM takes {firsts[0]:.2f} and {firsts[1]:.2f} times as long as ours" in text
    barred = [row for row in rows.values() if row[8]]
    assert sum(row[9] == "met" for row in barred) < len(barred) / 2
    assert "more are missed than met" in text


def test_what_is_said_of_missed_ratios_is_what_they_have() -> None:
    text = " ".join(section(PAGE, "Beside vLLM").split())
    title = "Ratios that are missed"
    missed = {(row["model"], row["work"]): row for row in columns(title)}
    asked = {
        each: missed[name, f"decode, batch 16, context {context}"]["the bar asks for"]
        for each, name, context in (
            ("Air", "GLM-4.5-Air, 12 of 46 layers", 8192),
            ("far", "GLM-4.7, 6 of 92 layers", 32768),
            ("near", "GLM-4.7, 6 of 92 layers", 8192),
        )
    }
    assert asked == {"Air": "100%", "far": "103%", "near": "99%"}
    assert "100 and 103 % for Air at 8 K and GLM-4.7 at 32 K" in text
    assert "and 99 % for GLM-4.7 at 8 K" in text
    close = sum(float(row["ms too many"]) <= 0.06 for row in missed.values())
    assert close == 7 and "Seven rows miss by 0.06 ms or less" in text


def shares(names: str, works: Iterable[str], peer: bool = False) -> tuple[float, float]:
    """The least and the most of the floor over the time of ours, or of vLLM's."""
    rows = [
        row
        for (model, work), row in beside().items()
        if re.fullmatch(names, model) and any(re.fullmatch(each, work) for each in works)
    ]
    return spread(
        float(row[6]) / float(row[2]) if peer else float(row[7].strip("%")) / 100 for row in rows
    )


def test_what_is_said_of_floors_beside_vllm_is_what_rows_have() -> None:
    text = " ".join(section(PAGE, "Beside vLLM").split())
    experts = r"GLM-4\.5-Air|GLM-4\.7"
    for names, works, said in (
        (experts, [r"decode, batch (16|32|64|128)(, context 768)?"],
         "ours take the floor over {0:.2f} to {1:.2f}, vLLM's over {2:.2f} to {3:.2f}; what is"),
        (experts, [r"decode, batch [1248](, context 768)?"], "{0:.2f} to {1:.2f} of the floor. A"),
        (".*", [r"decode, batch 16, context (8192|32768)"],
         "ours take the floor over {0:.2f} to {1:.2f}, vLLM's over {2:.2f} to {3:.2f}; the rest"),
    ):  # fmt: skip
        found = [*shares(names, works), *shares(names, works, peer=True)]
        assert said.format(*found) in text
    few = [r"decode, batch ([1248]|16|32)"]
    least, most = (round(100 * each) for each in shares("GLM-4-32B-0414", few))
    assert f"reaches {least} to {most} %" in text
    works = [r"first tokens? of (2048|8192|16 prompts.*)"]
    least, most = (round(100 * each) for each in shares(r"GLM-4-.*", works))
    assert f"stands at {least} to {most} %" in text


def test_what_is_said_of_prefill_graphs_is_what_is_captured() -> None:
    text = " ".join(section(PAGE, "Beside vLLM").split())
    assert LoadOptions().prefill_graphs is False
    assert "`prefill_graphs=True`, which is not the default" in text
    assert f"prefills up to {CAPTURED_TOKENS} tokens" in text
