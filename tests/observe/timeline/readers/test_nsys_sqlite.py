"""Nsight Systems' databases, with the columns that NVIDIA documents, written by hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from glmc.errors import UsageError
from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.steps import work_by_step
from glmc.observe.timeline.table import Kind, StepKind

PROCESS = 77 << 24
SCHEMA = {
    "StringIds": "id INTEGER PRIMARY KEY, value TEXT NOT NULL",
    "TARGET_INFO_GPU": "id INTEGER, name TEXT",
    "CUPTI_ACTIVITY_KIND_KERNEL": (
        "start INTEGER, end INTEGER, deviceId INTEGER, streamId INTEGER, correlationId INTEGER, "
        "globalPid INTEGER, demangledName INTEGER, shortName INTEGER, graphNodeId INTEGER"
    ),
    "CUPTI_ACTIVITY_KIND_MEMCPY": (
        "start INTEGER, end INTEGER, deviceId INTEGER, streamId INTEGER, correlationId INTEGER, "
        "globalPid INTEGER, bytes INTEGER, copyKind INTEGER"
    ),
    "CUPTI_ACTIVITY_KIND_RUNTIME": (
        "start INTEGER, end INTEGER, globalTid INTEGER, correlationId INTEGER, nameId INTEGER"
    ),
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": (
        "start INTEGER, end INTEGER, deviceId INTEGER, streamId INTEGER, correlationId INTEGER, "
        "globalPid INTEGER, graphId INTEGER"
    ),
    "NVTX_EVENTS": (
        "start INTEGER, end INTEGER, eventType INTEGER, text TEXT, globalTid INTEGER, "
        "textId INTEGER"
    ),
}
TEXTS = [(1, "void flash::flash_fwd_kernel<1>"), (2, "flash_fwd_kernel"), (3, "cudaGraphLaunch")]
STEP = "execute_context_0(0)_generation_4(4)"


def database(path: Path, **rows: Iterable[tuple[Any, ...]]) -> Path:
    """A report with the tables that have rows."""
    with sqlite3.connect(path) as made:
        for table, some in {"StringIds": TEXTS, **rows}.items():
            made.execute(f"CREATE TABLE {table} ({SCHEMA[table]})")
            for row in some:
                made.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
    made.close()
    return path


def test_kernels_with_launches_steps_and_copies(tmp_path: Path) -> None:
    thread = PROCESS | 5
    path = database(
        tmp_path / "a.sqlite",
        TARGET_INFO_GPU=[(0, "NVIDIA H200")],
        NVTX_EVENTS=[
            (1_000, 3_000, 59, STEP, thread, None),
            (50_000, 53_000, 59, None, thread, 4),
            (60_000, None, 34, "a mark", thread, None),
        ],
        StringIds=[*TEXTS, (4, STEP)],
        CUPTI_ACTIVITY_KIND_RUNTIME=[(2_000, 2_600, thread, 9, 3), (51_000, 51_500, thread, 10, 3)],
        CUPTI_ACTIVITY_KIND_KERNEL=[
            (10_000, 14_000, 0, 7, 9, PROCESS, 1, 2, 100),
            (15_000, 16_000, 0, 7, 9, PROCESS, 1, 2, 101),
            (60_000, 61_000, 0, 7, 10, PROCESS, 1, 2, None),
        ],
        CUPTI_ACTIVITY_KIND_MEMCPY=[(70_000, 71_000, 0, 8, 11, PROCESS, 256, 2)],
    )
    made = open_timeline(path)
    assert made.facts.source == "Nsight Systems" and made.facts.device == "NVIDIA H200"
    assert not made.facts.tried
    assert [step.kind for step in made.steps] == [StepKind("decode", 4, 4)] * 2
    assert [step.replayed for step in made.steps] == [True, False]
    first, second, third, copy = (event for event in made.events if event.kind is not Kind.HOST)
    assert first.name == "void flash::flash_fwd_kernel<1>"
    assert (first.start_us, first.duration_us) == (10, 4)
    assert (first.launched_us, first.queued_us) == (2, 2.6)
    assert first.correlation == second.correlation == "77:9"
    assert third.step == 1 and third.lane == "device 0 stream 7"
    assert (copy.name, copy.kind, copy.bytes) == ("Memcpy DtoH", Kind.COPY, 256)


def test_launches_of_other_processes_are_not_mixed_up(tmp_path: Path) -> None:
    other = 78 << 24
    path = database(
        tmp_path / "a.sqlite",
        CUPTI_ACTIVITY_KIND_RUNTIME=[
            (2_000, 2_600, PROCESS | 5, 9, 3),
            (4_000, 4_600, other, 9, 3),
        ],
        CUPTI_ACTIVITY_KIND_KERNEL=[(10_000, 14_000, 0, 7, 9, other, 1, 2, None)],
    )
    (kernel,) = work_by_step(open_timeline(path))[0]
    assert kernel.launched_us == 4


def test_graphs_that_were_traced_as_a_whole_are_said(tmp_path: Path) -> None:
    path = database(
        tmp_path / "a.sqlite",
        CUPTI_ACTIVITY_KIND_GRAPH_TRACE=[(10_000, 90_000, 0, 7, 9, PROCESS, 3)],
    )
    made = open_timeline(path)
    assert made.events[0].name == "device graph 3"
    assert "--cuda-graph-trace=node" in made.facts.remarks[0]


def test_columns_that_an_older_release_lacks(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE StringIds (id INTEGER, value TEXT)")
        made.execute("INSERT INTO StringIds VALUES (1, 'gemm')")
        made.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INT, end INT, shortName INT)")
        made.execute("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (1000, 3000, 1)")
    made.close()
    (kernel,) = work_by_step(open_timeline(path))[0]
    assert kernel.name == "gemm" and kernel.duration_us == 2 and kernel.queued_us is None


def test_another_database_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as made:
        made.execute("CREATE TABLE songs (name TEXT)")
    made.close()
    with pytest.raises(UsageError, match="no report of Nsight Systems"):
        open_timeline(other)
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(other.read_bytes()[:100] + b"\x07" * 4000)
    with pytest.raises(UsageError, match="the report can't be read"):
        open_timeline(damaged)
