"""Own and inherited error as ``glmc align`` tells them, and the test that it writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas
import pytest

from glmc.check.align.csv_file import XRAY_COLUMNS
from glmc.check.align.op_test_text import RUN
from glmc.cli.align_own import OwnErrors
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc_runtime.format.plan import Call
from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.vendor import Vendor
from tests.check.align.faults import FAULTS, Fault
from tests.support.command import Command, command_of, require_refusal

MODEL = "models/tiny-dense"
IDS = ("--ids", "5,6,7,1,40,2,2,11;8,9", "--steps", 1, "--emulate")
NORM = "model.layers.0.input_layernorm#rsqrt"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, shared_captures: None) -> Path:
    path = tmp_path_factory.mktemp("own") / "tiny.xpu"
    compile_model(MODEL, path, CompileOptions(target="xpu", max_context=64))
    return path


@pytest.fixture
def glmc(capsys: pytest.CaptureFixture[str]) -> Command:
    return command_of(capsys)


def too_large(patch: pytest.MonkeyPatch) -> None:
    """A norm of the vendor that is off by a factor, wherever it is called."""
    bind = Vendor.bind

    def wrong(vendor: Vendor, name: str, arguments: dict[str, Any]) -> Any:
        thunk = bind(vendor, name, arguments)
        if name != "kunlun_ops.rmsnorm":
            return thunk

        def run() -> None:
            thunk()
            arguments["output"].mul_(1.5)

        return run

    patch.setattr(Vendor, "bind", wrong)


def trouble(test: Path) -> str:
    """What a test of ours finds, in this process."""
    scope: dict[str, Any] = {"__name__": __name__}
    exec(compile(test.read_text(), str(test), "exec"), scope)
    found: str = scope["trouble"]()
    return found


def test_a_wrong_kernel_is_told_from_what_it_spoils(
    glmc: Command, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "260")
    test, table, page = (tmp_path / name for name in ("test_op.py", "a.csv", "a.html"))
    with pytest.MonkeyPatch.context() as patch:
        too_large(patch)
        files = ("--test", test, "--csv", table, "--page", page)
        done = glmc("align", MODEL, artifact, *IDS, *files, "--exit-code", "--worst")
        assert done.status == 1, done.err
        assert "is allowed" in trouble(test)
    assert trouble(test) == ""  # the kernel is mended
    text = " ".join(done.out.split())
    assert f"Node {NORM} (rms_norm) computes it by kunlun_ops.rmsnorm." in text
    assert re.search(
        r"Its own error, on operands as expected, is at most [\d.]+ in an element; [\d.]+ is", text
    )
    assert "Inherited from its operands is at most 0 in an element. 1 value before it" in text
    assert f"{test} written: pytest fails on it until rms_norm is right. Run it" in text
    assert f"python -m pytest -c /dev/null --rootdir . {test} It has the calls as they" in text
    told = test.read_text().split('"""')[1]
    assert "as they were compiled, with their arguments" in told and f"Run: {RUN} FILE" in told
    assert "own allowed" in text and "own error is unknown" not in text

    rows = pandas.read_csv(table, keep_default_na=False)
    assert tuple(rows.columns[:8]) == XRAY_COLUMNS
    blamed = rows[rows["Verdict"] == "own"]
    assert {"rms_norm"} == set(blamed["Op"]) and set(blamed["Status"]) == {"Fail"}
    assert rows["Verdict"].isin(["own", "ok"]).all()
    known = rows[["Own Max Err", "Own Bound", "Numerics", "Inherited Max Err"]]
    assert (known != "").all().all()
    assert 'class="heat' in page.read_text() and "own" in page.read_text()


@pytest.mark.long
def test_columns_of_a_merged_projection_are_told_apart(
    glmc: Command, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that are wrong are no fault of what the same call makes of queries and values."""
    Fault("model.layers.1.self_attn.qkv_proj#linear", _wrong_keys).install(monkeypatch)
    done = glmc("align", MODEL, artifact, *IDS, "--json")
    assert done.status == 0, done.err
    rows = {
        name: row
        for row in json.loads(done.out)["values"]
        for name in ("q_proj", "k_proj", "v_proj")
        if row["module"] == f"model.layers.1.self_attn.{name}" and row["step"] == 0
    }
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "q_proj": "ok",
        "k_proj": "own",
        "v_proj": "ok",
    }
    assert rows["k_proj"]["share"] > 1 > rows["q_proj"]["share"]
    errors = {name: row["own"]["largest_absolute"] for name, row in rows.items()}
    assert errors["k_proj"] > 100 * max(errors["q_proj"], errors["v_proj"])
    assert {row["own"]["elements"] for row in rows.values()} == {
        row["total"]["elements"] for row in rows.values()
    }


def _wrong_keys(call: Call, arguments: dict[str, Any], thunk: Thunk) -> Thunk:
    """A product whose keys, which are after the queries, are off by a factor."""
    out = arguments["out"]

    def run() -> None:
        thunk()
        queries = 2 * out.shape[-1] // 4
        out[..., queries : queries + out.shape[-1] // 4].mul_(1.5)

    return run


def test_a_sound_artifact_has_no_finding_and_no_test(
    glmc: Command, artifact: Path, tmp_path: Path
) -> None:
    test = tmp_path / "test_op.py"
    done = glmc("align", MODEL, artifact, *IDS, "--test", test, "--exit-code", "--json")
    assert done.status == 0, done.err
    data = json.loads(done.out)
    assert data["first"] is None and data["emulated"] and data["remarks"] == []
    assert all(row["own"] and row["inherited"] for row in data["values"])
    assert all(0 <= row["share"] <= 1 for row in data["values"])
    assert data["thresholds"].startswith("own: ")
    assert f"No call differs by itself: {test} is not written." in done.err
    assert not test.exists()


@pytest.mark.long
def test_where_no_test_shows_it_what_was_found_is_said_first(
    glmc: Command, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FAULTS["weight_rows_swapped"].install(monkeypatch)
    test = tmp_path / "test_op.py"
    done = glmc("align", MODEL, artifact, *IDS, "--test", test, "-q")
    assert done.status == 2 and "o_proj.weight' is not the model's" in done.err
    node = "Node model.layers.1.self_attn.o_proj#linear (linear) computes it"
    assert node in " ".join(done.out.split()) and not test.exists()


@pytest.mark.long
def test_why_own_error_is_unknown_is_said_once(
    glmc: Command, artifact: Path, tmp_path: Path
) -> None:
    stock = tmp_path / "stock.h5"
    assert glmc("record", MODEL, *IDS[:4], "-q", "-o", stock).status == 0
    done = glmc("align", stock, artifact, "--emulate", "-q")
    text = " ".join(done.out.split())
    reason = "own error is unknown: nothing says where the checkpoint is that it was compiled from"
    assert text.count(f"note: {reason} (--checkpoint DIR)") == 1
    assert "thresholds rounding: " in text and "own allowed" not in text
    data = json.loads(glmc("align", stock, stock, "--json").out)
    assert data["remarks"] == [
        "own error is unknown: B is a record, and calls are run of an artifact"
    ]
    assert {row["own"] for row in data["values"]} == {None}


def test_own_error_can_be_left_out(
    glmc: Command, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the calls were run beside the reference")

    monkeypatch.setattr(OwnErrors, "_beside", never)
    done = glmc("align", MODEL, artifact, *IDS, "--no-own", "--json")
    assert done.status == 0, done.err
    data = json.loads(done.out)
    assert data["remarks"] == ["own error is left out (--no-own)"]
    assert data["values"] and {row["own"] for row in data["values"]} == {None}
    assert data["thresholds"].startswith("rounding: ")
    done = glmc("align", MODEL, artifact, "--no-own", "--test", tmp_path / "test_op.py")
    require_refusal(done, "GLMC-1001", "--no-own, which does not run them", "--test")


@pytest.mark.long
def test_a_reference_in_another_dtype_says_what_to_do(
    glmc: Command, artifact: Path, tmp_path: Path
) -> None:
    stock = tmp_path / "stock.h5"
    record = ("record", MODEL, *IDS[:4], "-q", "--dtype", "float32", "-o", stock)
    assert glmc(*record).status == 0
    done = glmc("align", stock, artifact, "--emulate", "-q")
    text = " ".join(done.out.split())
    assert "note: A was computed in float32 and B in bfloat16: rounding alone puts values" in text
    assert "record A in the dtype of B: glmc record MODEL --dtype bfloat16 --like A" in text
    assert (
        "note: own error is unknown: its calls are in bfloat16, and the reference is in float32 "
        "(record the reference with --dtype bfloat16)" in text
    )


def test_a_test_has_its_place(glmc: Command, artifact: Path, tmp_path: Path) -> None:
    stock, test = tmp_path / "stock.h5", tmp_path / "test_op.py"
    done = glmc("align", stock, stock, "--test", test)
    require_refusal(done, "GLMC-1001", "B is a record", "--test")
    test.write_text("something else")
    done = glmc("align", stock, artifact, "--emulate", "--test", test)
    require_refusal(done, "GLMC-1001", "no test of ours")
    assert test.read_text() == "something else"
    done = glmc("align", stock, artifact, "--emulate", "--test", tmp_path / "gone" / "test_op.py")
    require_refusal(done, "GLMC-1001", "the folder of the test is not there")
