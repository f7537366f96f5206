"""The tables say what was measured."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from bench.cpu.paired import Measured, Use
from bench.cpu.table import speeds, starts
from bench.cpu.work import Work
from bench.models import model_of

MODEL = model_of("dense", quick=True)
STEP = MODEL.weight_bytes(1)


def lines(table: Table) -> list[list[str]]:
    """Rows of cells."""
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    text = [line for line in console.file.getvalue().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text]


@pytest.mark.parametrize(("dtype", "share"), [("bfloat16", "50%"), ("float32", "100%")])
def test_speeds_have_ratios_to_the_base_and_the_share_of_a_read(dtype: str, share: str) -> None:
    decode = Measured(Work("decode", 1, 2), {"eager": [2.0, 4.0], "glmc": [1.0, 2.0]}, [STEP] * 2)
    # The second round reads half as fast as well: half of the plain read in both.
    decode = Measured(decode.work, decode.seconds, [2 * STEP, STEP])
    prefill = Measured(Work("prefill", 8, 1), {"eager": [2.0]}, [1e9])
    eager, glmc, alone = lines(speeds(MODEL, [decode, prefill], "glmc", dtype, "title"))
    assert eager[:6] == ["decode 1", "eager", "0.4", "0.2 to 0.5", "2.00", "2.00 to 2.00"]
    assert glmc[:7] == ["", "glmc", "0.8", "0.5 to 1.0", "", "", share]
    assert alone[:3] == ["prefill 8", "eager", "4.0"] and alone[4:7] == ["", "", ""]
    assert alone[7] == "1.0 (1.0 to 1.0)"


def test_starts_have_medians_of_parts_and_memory() -> None:
    start = {"python": 0.5, "import": 1.0, "load": 2.0, "hashes": None, "first": 0.5, "total": 4.0}
    start |= {"VmHWM": 300.0, "RssAnon": 100.0}
    took = {"it": [start, {**start, "total": 5.0, "first": 1.5}]}
    ((*parts,),) = lines(starts(took, {"it": Use(400.0, 500.0, spun=0.1, waited=10.0)}))
    assert parts[:6] == ["it", "0.5", "1.0", "2.0", "-", "1.0"]
    assert parts[6:9] == ["3.0", "4.5", "4.0 to 5.0"]
    assert parts[9:] == ["300", "100", "500", "400", "1.0%"]
