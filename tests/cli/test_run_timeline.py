"""``glmc run --timeline`` completes what the runtime wrote; options are refused before the work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmc.cli.main import main
from glmc.compiler import compile_model
from glmc.config import CompileOptions

pytestmark = pytest.mark.usefixtures("shared_captures")
MOE = Path(__file__).parents[2] / "models" / "tiny-moe"
RUN = ["--token-ids", "40,50", "--max-new-tokens", "2"]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "moe"
    compile_model(MOE, path, CompileOptions(target="cpu", dtype="float32", block_size=16))
    return path


@pytest.mark.parametrize(("device", "said"), [([], "no floors"), (["cpu"], "floors of")])
def test_the_file_has_bytes_and_where_a_device_is_named_floors(
    artifact: Path, tmp_path: Path, device: list[str], said: str
) -> None:
    file = tmp_path / "t.json"
    named = [word for name in device for word in ("--device-file", name)]
    assert main(["run", str(artifact), *RUN, "--timeline", str(file), *named]) == 0
    data = json.loads(file.read_text())
    assert said in data["glmc"]["costs"]
    calls = [event["args"] for event in data["traceEvents"] if event.get("cat") == "call"]
    assert all(args["bytes"] is not None and args["passes"] is not None for args in calls)
    assert all((args["floor_us"] is not None) is bool(device) for args in calls)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device-file", "h20"], "there is no device 'h20'"),
        (["--device-file", "h200"], "is for the floors of a timeline"),
    ],
)
def test_a_device_is_refused_before_the_work(
    artifact: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(artifact), *RUN, *words]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.out == ""
