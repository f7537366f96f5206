"""Chrome traces of an unknown writer, as XProfiler's would be; no real one was at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.steps import NO_STEPS, work_by_step
from glmc.observe.timeline.table import Kind, Timeline
from glmc.observe.timeline.words import head_lines


def lane(process: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": "process_name", "pid": process, "args": {"name": name}}


def event(process: int, name: str, ts: float, dur: float) -> dict[str, Any]:
    return {"ph": "X", "name": name, "pid": process, "tid": 0, "ts": ts, "dur": dur}


def read(folder: Path, *rows: dict[str, Any]) -> Timeline:
    path = folder / "xprofiler.trace.json"
    path.write_text(json.dumps({"traceEvents": rows}))
    return open_timeline(path)


def test_lanes_by_their_names(tmp_path: Path) -> None:
    made = read(
        tmp_path,
        lane(1, "XPU 2 SSE"),
        lane(2, "Driver of XPU 2"),
        event(1, "xblas_xpu3::fc_cdnn_infer<float16>", 10, 4),
        event(1, "kl3_all_reduce<float16>", 20, 4),
        event(2, "xpu_launch", 5, 2),
    )
    assert not made.facts.tried and made.facts.timed
    assert made.facts.remarks == ("lanes of devices by their names: XPU 2 SSE", NO_STEPS)
    kinds = {each.name: each.kind for each in made.events}
    assert kinds == {
        "xblas_xpu3::fc_cdnn_infer<float16>": Kind.KERNEL,
        "kl3_all_reduce<float16>": Kind.COLLECTIVE,
        "xpu_launch": Kind.HOST,
    }
    assert [each.device for each in work_by_step(made)[0]] == ["device 2"] * 2


def test_lanes_by_their_kernels_where_names_say_nothing(tmp_path: Path) -> None:
    made = read(
        tmp_path,
        event(1, "xblas_xpu3::fc_cdnn_infer<float16>", 10, 4),
        event(1, "unheard", 20, 4),
        event(2, "wait", 5, 2),
    )
    assert made.facts.remarks == ("lanes of devices by their kernels: 1/0", NO_STEPS)
    assert [each.name for each in work_by_step(made)[0]][1] == "unheard"


def test_unknown_names_alone_are_all_work_and_that_is_said(tmp_path: Path) -> None:
    made = read(tmp_path, event(1, "unheard", 20, 4), event(2, "wait", 25, 2))
    assert len(work_by_step(made)[0]) == 2
    assert "all of them count as work" in made.facts.remarks[0]


def test_it_is_said_that_no_real_file_was_tried(tmp_path: Path) -> None:
    lines = list(head_lines(read(tmp_path, event(1, "unheard", 20, 4))))
    assert any("not tried on real files" in line for line in lines)
