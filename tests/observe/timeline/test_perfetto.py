"""A timeline of ours as Perfetto's own UI and trace processor read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmc.cli.main import main
from tests.observe.timeline.perfetto import opened

ROOT = Path(__file__).parents[3]
_NODES = """select count(distinct slice.id), count(distinct args.display_value)
from slice join args using (arg_set_id) where args.key = 'args.node'"""


@pytest.mark.long
def test_perfetto_opens_it_with_every_call_and_its_node(tmp_path: Path) -> None:
    artifact, trace = tmp_path / "tiny.xpu", tmp_path / "trace.json"
    model = str(ROOT / "models" / "tiny-moe")
    assert main(["compile", model, "--target", "xpu", "--output", str(artifact), "--quiet"]) == 0
    words = ["run", str(artifact), "--prompt", "The source", "--max-new-tokens", "3"]
    assert main([*words, "--timeline", str(trace)]) == 0
    events = json.loads(trace.read_text("utf-8"))["traceEvents"]
    calls = [event["args"]["node"] for event in events if event.get("cat") == "call"]
    assert len(calls) > 200
    with opened(trace) as perfetto:
        assert (
            perfetto.query("select name, value from stats where severity = 'error' and value") == []
        )
        assert perfetto.query(_NODES) == [[len(calls), len(set(calls))]]
        lanes = perfetto.query("select name from process where name is not null order by name")
        assert lanes == [["device 0 (xpu, emulated)"], ["host (emulated)"]]
        steps = perfetto.query("select name from slice where category = 'step' order by ts")
        assert steps == [["step 0 prefill"], ["step 1 decode"], ["step 2 decode"]]
