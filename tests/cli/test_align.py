"""``glmc align`` of files, checkpoints and artifacts, as it is typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas
import pytest
import torch

from glmc.check.align.csv_file import XRAY_COLUMNS
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc_runtime.format.tensor_key import OUTPUT, TensorKey
from glmc_runtime.record.h5_file import H5File
from tests.support.command import Command, command_of, require_refusal

MODEL = "models/tiny-dense"
FACTS = {"dtype": "float32", "prompts": [[1, 2, 3, 4]], "tokens": [[5]], "emulated": False}


def written(path: Path, *, emulated: bool = False, scale: float = 1.0) -> Path:
    """A record of two layers; ``scale`` is of one tensor in layer 1."""
    with H5File(path) as sink:
        for step, tokens in enumerate((4, 1)):
            sink.begin(step, [tokens])
            for layer in range(2):
                for name in ("self_attn.o_proj", "mlp.down_proj"):
                    key = TensorKey(f"model.layers.{layer}.{name}", "Linear", 0, OUTPUT, "0")
                    made = torch.Generator().manual_seed(layer + 2 * len(name))
                    value = torch.randn(1, tokens, 32, generator=made)
                    wrong = layer == 1 and name.startswith("mlp") and step == 0
                    sink.write([key], value * (scale if wrong else 1.0), {"node": f"n{layer}"})
        sink.describe({**FACTS, "emulated": emulated})
    return path


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two that are equal, and one with a fault."""
    root = tmp_path_factory.mktemp("align")
    a, b = written(root / "a.h5"), written(root / "b.h5")
    return a, b, written(root / "wrong.h5", scale=1.5, emulated=True)


@pytest.fixture
def glmc(capsys: pytest.CaptureFixture[str]) -> Command:
    return command_of(capsys)


def test_equal_records_have_no_divergence(glmc: Command, records: tuple[Path, Path, Path]) -> None:
    a, b, _ = records
    done = glmc("align", a, b, "--exit-code", "-q")
    assert done.status == 0, done.err
    assert done.out.startswith(f"A  {a}  (float32)\nB  {b}  (float32)\nthresholds rounding: ")
    assert "No divergence: of 8 values 8 are within what is allowed." in done.out
    assert "emulated" not in done.out


def test_the_first_divergence_is_said_and_makes_the_exit_status(
    glmc: Command, records: tuple[Path, Path, Path]
) -> None:
    a, _, wrong = records
    done = glmc("align", a, wrong, "--exit-code", "-q")
    assert done.status == 1
    text = " ".join(done.out.split())
    assert "The first divergence is model.layers.1.mlp.down_proj.Linear.0.forward_output.0" in text
    assert "emulated: a side was computed by stand-ins" in text and "(emulated)" in text
    assert glmc("align", a, wrong, "-q").status == 0


def test_json_and_csv_have_every_value(
    glmc: Command, records: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    a, _, wrong = records
    done = glmc("align", a, wrong, "--json", "--csv", tmp_path / "result.csv")
    data = json.loads(done.out)
    assert done.err == ""
    assert data["differs"] and data["emulated"] and data["values"][data["first"]]["layer"] == 1
    table = pandas.read_csv(tmp_path / "result.csv", keep_default_na=False)
    assert tuple(table.columns[:8]) == XRAY_COLUMNS
    assert table["Status"].tolist() == ["", "", "", "Fail", "", "", "", ""]
    # A file that is none of ours stays as it is.
    other = Path(shutil.copy(wrong.with_name("wrong_summary.csv"), tmp_path / "other.csv"))
    before = other.read_text()
    require_refusal(glmc("align", a, wrong, "--csv", other), "GLMC-1001", "no csv of an alignment")
    assert other.read_text() == before


def test_a_page_is_written_beside_what_is_printed(
    glmc: Command, records: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    a, _, wrong = records
    page = tmp_path / "page.html"
    done = glmc("align", a, wrong, "--page", page, "-q")
    assert done.status == 0 and "The first divergence" in done.out
    assert "emulated" in page.read_text()
    require_refusal(glmc("align", a, wrong, "--page", page, "--json"), "GLMC-1001", "two answers")


def test_layers_and_modules_choose_values(glmc: Command, records: tuple[Path, Path, Path]) -> None:
    a, _, wrong = records
    data = json.loads(glmc("align", a, wrong, "--layers", "0", "--json").out)
    assert {row["layer"] for row in data["values"]} == {0} and not data["differs"]
    data = json.loads(glmc("align", a, wrong, "--modules", "*.down_proj", "--json").out)
    assert [row["module"][-9:] for row in data["values"]] == ["down_proj"] * 4
    require_refusal(glmc("align", a, wrong, "--layers", "x"), "GLMC-2004", "--layers")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--layers", "9"), ("--layers 9", "layers 0-1", "leave out --layers 9")),
        (("--modules", "*.nope*"), ("--modules '*.nope*'", "model.layers.*.mlp.down_proj")),
        (("--layers", "9", "--json"), ("--layers 9",)),
    ],
)
def test_where_nothing_is_compared_that_is_an_error(
    glmc: Command, records: tuple[Path, Path, Path], words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    a, b, _ = records
    done = glmc("align", a, b, *words, "--exit-code")
    require_refusal(done, "GLMC-1001", "nothing was compared", f"{a}, {b}", *said)


def test_lines_for_each_value_and_the_worst_first(
    glmc: Command, records: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    a, _, wrong = records
    for flag, place in (("--all", 3), ("--worst", 0)):
        done = glmc("align", a, wrong, flag, "-q")
        rows = [line for line in done.out.splitlines() if "forward_output.0 " in line]
        assert [row for row, line in enumerate(rows) if "fail" in line] == [place]


def test_thresholds_of_torch_xray_are_called_inferred(
    glmc: Command, records: tuple[Path, Path, Path]
) -> None:
    a, _, wrong = records
    done = glmc("align", a, wrong, "--thresholds", "xray", "--exit-code", "-q")
    assert done.status == 1 and "inferred" in done.out
    require_refusal(glmc("align", a, wrong, "--thresholds", "x"), "GLMC-1001", "rounding, xray")


def test_a_summary_stands_for_its_record(glmc: Command, records: tuple[Path, Path, Path]) -> None:
    a, b, wrong = records
    for other, status in ((b, 0), (wrong, 1)):
        summary = other.with_name(f"{other.stem}_summary.csv")
        done = glmc("align", a, summary, "--exit-code", "-q")
        assert done.status == status, done.out
        assert "statistics alone" in done.out


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, shared_captures: None) -> Path:
    path = tmp_path_factory.mktemp("align") / "tiny.xpu"
    compile_model(MODEL, path, CompileOptions(target="xpu", max_context=64))
    return path


@pytest.mark.long
def test_a_checkpoint_and_an_artifact_are_recorded_on_the_spot(
    glmc: Command, artifact: Path, tmp_path: Path
) -> None:
    done = glmc("align", MODEL, artifact, "--prompt", "The source", "--steps", 2, "--emulate")
    assert done.status == 0, done.err
    assert done.out.startswith(f"A  {MODEL}  (Hugging Face transformers ")
    assert f"B  {artifact}  (glmc artifact, xpu (emulated), tiny-dense, bfloat16)" in done.out
    assert "emulated: a side was computed by stand-ins" in done.out
    assert "recording" in done.err and "No divergence" in done.out

    # A record takes part as well, with its own tokens: of the reference, or of ours.
    stock, options = tmp_path / "stock.h5", ("--ids", "5,6,7;8,9", "--steps", 1, "-q")
    assert glmc("record", MODEL, *options, "-o", stock).status == 0
    for sides in ((stock, artifact), (artifact, stock)):
        done = glmc("align", *sides, "--emulate", "--exit-code", "--json")
        assert done.status == 0, done.out
        data = json.loads(done.out)
        facts = [data[side]["facts"] for side in ("expected", "actual")]
        assert facts[0]["prompts"] == facts[1]["prompts"] == [[5, 6, 7], [8, 9]]
        assert facts[0]["tokens"] == facts[1]["tokens"]
        assert {row["step"] for row in data["values"]} == {0, 1}
    done = glmc("align", stock, artifact, "--prompt", "x")
    require_refusal(done, "GLMC-1001", "the tokens of the record", "--prompt")


def test_a_checkpoint_is_recorded_in_the_dtype_of_the_other_side(
    glmc: Command, tmp_path: Path
) -> None:
    exact = tmp_path / "exact.h5"
    options = ("--ids", "5,6,7", "--steps", 0, "-q", "--dtype", "float32")
    assert glmc("record", MODEL, *options, "-o", exact).status == 0
    data = json.loads(glmc("align", MODEL, exact, "--json").out)
    assert data["expected"]["facts"]["dtype"] == "float32" and not data["differs"]
    assert all(row["total"]["rmse"] == 0 for row in data["values"])


def test_sides_that_are_recorded_need_prompts(glmc: Command, artifact: Path) -> None:
    require_refusal(glmc("align", MODEL, artifact), "GLMC-2004", "--prompt")
    # What is not there is said before anything is recorded.
    done = glmc("align", MODEL, "gone.h5", "--prompt", "x")
    require_refusal(done, "GLMC-2013", "gone.h5")
    assert "recording" not in done.err


def test_what_is_no_record_is_refused(
    glmc: Command, records: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    text = tmp_path / "a.h5"
    text.write_text("no record")
    require_refusal(glmc("align", records[0], text), "GLMC-2013", "no record of tensors")
    done = glmc("align", records[0], tmp_path / "gone.xpu")
    words = ("found:    no such path", "an artifact or a checkpoint, too")
    require_refusal(done, "GLMC-2013", *words)


def test_what_can_t_be_done_is_said_before_anything_runs(
    glmc: Command, artifact: Path, tmp_path: Path
) -> None:
    sides = (MODEL, artifact, "--ids", "1,2")
    for words, said in (
        (("--checkpoint", tmp_path / "gone"), "no such directory"),
        (("--checkpoint", tmp_path), "no config.json"),
        (("--page", tmp_path / "gone" / "a.html"), "a file in a folder that exists"),
        (("--thresholds", "foo"), "--thresholds rounding"),
    ):
        done = glmc("align", *sides, *words)
        require_refusal(done, "GLMC-1001", said)
        assert "recording" not in done.err
