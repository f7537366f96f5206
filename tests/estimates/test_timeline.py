"""A timeline that the runtime wrote gets bytes, operations and floors, and says where from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import glmc_runtime
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc.errors import UsageError
from glmc.estimates.device_file import read_device
from glmc.estimates.timeline import UNKNOWN_DEVICE, add_costs, complete, described_card
from glmc.observe.history.stored import read_history
from tests.runtime.toy import write_toy

pytestmark = pytest.mark.usefixtures("shared_captures")
MOE = Path(__file__).parents[2] / "models" / "tiny-moe"
LINEAR = "lm_head#linear"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("timeline") / "moe"
    compile_model(MOE, path, CompileOptions(target="cpu", dtype="float32", block_size=16))
    return path


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("emulated") / "moe"
    compile_model(MOE, path, CompileOptions(target="xpu", dtype="bfloat16"))
    return path


def run(artifact: Path, file: Path) -> Path:
    session = glmc_runtime.load(artifact)
    with session.timeline(file):
        session.generate([[40, 50, 60], [33] * 8], max_new_tokens=3, ignore_eos=True)
    return file


def read(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    data = json.loads(file.read_text())
    calls = [event for event in data["traceEvents"] if event.get("cat") == "call"]
    return [{**event["args"], "dur": event["dur"]} for event in calls], data["glmc"]


def test_each_call_gets_what_its_op_and_the_history_say(artifact: Path, tmp_path: Path) -> None:
    file = run(artifact, tmp_path / "t.json")
    assert all(args["bytes"] is None for args in read(file)[0])
    add_costs(file, artifact, "cpu")
    calls, about = read(file)
    assert all(args["passes"] is not None and args["bytes"] is not None for args in calls)
    device = read_device("cpu")
    assert about["costs"].startswith("by the facts of the ops")
    assert f"floors of {device.title}" in about["costs"]
    heads = [args for args in calls if args["node"] == LINEAR]
    assert len(heads) == 3 and {args["operations"] for args in heads} == {2 * 2 * 128 * 1536}
    moved = 4 * (128 * 1536 + 2 * 128 + 2 * 1536)
    assert {args["bytes"] for args in heads} == {moved}
    floor = max(moved / device.read.value, 2 * 2 * 128 * 1536 / device.product["float32"].value)
    for args in heads:
        assert args["floor_us"] == pytest.approx(floor * 1e6, abs=1e-3)
        assert args["share_of_floor"] == pytest.approx(floor * 1e6 / args["dur"], abs=2e-3)
    attention = [args["bytes"] for args in calls if args["op"] == "decode_attention"]
    assert len(set(attention)) == 2 and sorted(attention) == attention  # the context grows


def test_without_a_device_there_are_no_floors(artifact: Path, tmp_path: Path) -> None:
    file = run(artifact, tmp_path / "t.json")
    add_costs(file, artifact)
    calls, about = read(file)
    assert about["costs"].endswith(UNKNOWN_DEVICE)
    assert all(args["bytes"] is not None and args["floor_us"] is None for args in calls)


@pytest.mark.long
def test_several_calls_of_a_node_share_its_cost(emulated: Path, tmp_path: Path) -> None:
    """Bytes are at the last of them; emulated times are held against no floor."""
    file = run(emulated, tmp_path / "t.json")
    add_costs(file, emulated, "p800")
    calls, about = read(file)
    assert f"floors of {read_device('p800').title}" in about["costs"]
    for step in {args["step"] for args in calls}:
        mine = [args for args in calls if args["step"] == step and args["op"] == "moe_ffn"]
        nodes = {args["node"] for args in mine}
        assert len(mine) > len(nodes) > 1
        for node in nodes:
            costs = [args["bytes"] for args in mine if args["node"] == node]
            floors = [args["floor_us"] for args in mine if args["node"] == node]
            assert costs[-1] > 0 == sum(costs[:-1]) and floors[-1] > 0 == sum(floors[:-1])
    assert all(args["share_of_floor"] is None for args in calls)


def test_a_described_card_is_known_by_its_name(artifact: Path, tmp_path: Path) -> None:
    assert described_card("NVIDIA H200") == read_device("h200")
    assert described_card("cpu") is None
    file = run(artifact, tmp_path / "t.json")
    data = json.loads(file.read_text())
    data["glmc"] |= {"device": "NVIDIA H200", "dtype": "bfloat16"}
    complete(data, read_history(artifact), 16, described_card(data["glmc"]["device"]))
    shares = [
        event["args"]["share_of_floor"]
        for event in data["traceEvents"]
        if event.get("cat") == "call"
    ]
    assert all(0 <= share < 1 for share in shares) and any(shares)


def test_a_step_whose_lengths_are_not_known_is_not_counted(artifact: Path, tmp_path: Path) -> None:
    file = run(artifact, tmp_path / "t.json")
    data = json.loads(file.read_text())
    for event in data["traceEvents"]:
        if event.get("cat") == "step" and event["args"]["step"] == 1:
            event["args"] |= {"context": None, "keys": None}
    file.write_text(json.dumps(data))
    add_costs(file, artifact)
    calls, _ = read(file)
    counted = {args["step"] for args in calls if args["bytes"] is not None}
    assert counted == {0, 2} and all(args["passes"] is not None for args in calls)


def test_an_artifact_without_a_history_says_so(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "toy")
    file = run_toy(toy, tmp_path / "t.json")
    add_costs(file, toy)
    calls, about = read(file)
    assert about["costs"] == "left out: the artifact has no history.json"
    assert all(args["bytes"] is None for args in calls)


def run_toy(toy: Path, file: Path) -> Path:
    session = glmc_runtime.load(toy)
    with session.timeline(file):
        session.generate([[1, 2]], max_new_tokens=2, ignore_eos=True)
    return file


def test_what_is_no_timeline_of_ours_is_refused(artifact: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    for text in ("", "[]", '{"traceEvents": []}', '{"glmc": {"format": 2}}', '{"glmc": 3}'):
        file.write_text(text)
        with pytest.raises(UsageError, match="no timeline of glmc's runtime"):
            add_costs(file, artifact)
        assert file.read_text() == text


def test_a_device_of_another_target_is_refused(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another target"):
        add_costs(tmp_path / "t.json", artifact, "h200")
