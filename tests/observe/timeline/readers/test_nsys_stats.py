"""Tables of ``nsys stats``, as its documentation and public reports show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc.errors import UsageError
from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.table import Kind
from tests.observe.timeline.test_totals import of

TRACE = """\
NOTICE: Existing SQLite export found: report.sqlite

Processing [report.sqlite] with [cuda_gpu_trace.py]...
Start (ns),Duration (ns),CorrId,GrdX,GrdY,GrdZ,BlkX,BlkY,BlkZ,Reg/Trd,StcSMem (MB),DymSMem (MB),\
Bytes (MB),Throughput (MB/s),SrcMemKd,DstMemKd,Device,Ctx,GreenCtx,Strm,Name
20000,3000,12,1,1,1,32,1,1,18,0,0,,,,,NVIDIA H200 (1),1,,8,"void flash_fwd_kernel<1, 2>(int)"
10000,5000,11,2,1,1,64,1,1,24,0,0,,,,,NVIDIA H200 (1),1,,7,nvjet_sm90_tst
30000,1000,13,,,,,,,,,,0.004,100,Pageable,Device,NVIDIA H200 (1),1,,7,[CUDA memcpy HtoD]
"""


def test_a_trace_of_kernels(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    made = open_timeline(path)
    assert made.facts.source == "nsys stats" and not made.facts.tried
    assert [event.name for event in made.events] == [
        "nvjet_sm90_tst",
        "void flash_fwd_kernel<1, 2>(int)",
        "[CUDA memcpy HtoD]",
    ]
    first = made.events[0]
    assert (first.start_us, first.duration_us, first.lane) == (10, 5, "device 1 stream 7")
    assert made.events[2].kind is Kind.COPY
    assert of(made).bubbles["cause not known"] == 12
    assert {total.name for total in of(made).by_class} == {"linear", "attention", "copy"}


def test_another_unit(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("Start (ms),Duration (us),CorrId,Name\n1.5,20.5,1,gemm\n2,x,1,gemm\n")
    (event,) = open_timeline(path).events
    assert (event.start_us, event.duration_us) == (1500, 20.5)


def test_a_table_of_sums_has_no_times(tmp_path: Path) -> None:
    path = tmp_path / "sums.csv"
    path.write_text("Time (%),Total Time (ns),Instances,Avg (ns),Name\n50,100,2,50,gemm\n")
    with pytest.raises(UsageError, match="cuda_gpu_trace"):
        open_timeline(path)


def test_a_cell_without_an_end_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE + "1,2," + "x" * 200_000)
    with pytest.raises(UsageError, match="the table can't be read") as caught:
        open_timeline(path)
    assert caught.value.place == str(path) and caught.value.remedy
