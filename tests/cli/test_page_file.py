"""Pages that lead to each other, as they are typed: align, timeline and inspect; and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from glmc.observe.history.encode import history_to_json
from glmc_runtime.format.tensor_key import OUTPUT, TensorKey
from glmc_runtime.record.h5_file import H5File
from tests.artifact.toy import write
from tests.observe.page.measurements import gate
from tests.observe.page.test_render import embedded
from tests.observe.sample import history
from tests.observe.timeline.sample import VLLM
from tests.observe.timeline.toy import toy_trace
from tests.support.command import Command, command_of, require_refusal


def record(path: Path, scale: float, target: str) -> Path:
    """The gates of two layers; ``scale`` is of layer 1."""
    with H5File(path) as sink:
        sink.begin(0, [3])
        for layer in (1, 2):
            name = f"model.layers.{layer}.mlp.gate"
            value = torch.ones(1, 3, 8) * (scale if layer == 1 else 1.0)
            key = TensorKey(name, "Gate", 0, OUTPUT, "0")
            sink.write([key], value, {"node": gate(layer)})
        facts = {"dtype": "float32", "prompts": [[1, 2, 3]], "tokens": [[5]], "model": "toy-moe"}
        sink.describe({**facts, "target": target, "emulated": target == "xpu"})
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact, two records and a trace."""
    root = tmp_path_factory.mktemp("pages")
    write(root / "toy", history=history_to_json(history()))
    record(root / "a.h5", 1.0, "eager")
    record(root / "b.h5", 1.5, "xpu")
    toy_trace(root / "run.json")
    return root


@pytest.fixture
def glmc(capsys: pytest.CaptureFixture[str]) -> Command:
    return command_of(capsys)


def test_the_pages_lead_to_each_other(glmc: Command, made: Path, tmp_path: Path) -> None:
    compiled, heat, times = (tmp_path / name for name in ("c.html", "h.html", "t.html"))
    link = ("--compile-page", compiled)
    assert glmc("inspect", made / "toy", "--page", compiled).status == 0
    done = glmc("align", made / "a.h5", made / "b.h5", "--page", heat, *link, "-q")
    assert done.status == 0, done.err
    assert glmc("timeline", made / "run.json", "--page", times, *link).status == 0
    for page in (heat, times):
        assert embedded(page.read_text())["compile"] == "c.html"
    done = glmc(
        "inspect", made / "toy", "--page", compiled, "--align", heat, "--timeline", times, "-q"
    )
    assert done.out == f"{compiled} written\n"
    data = embedded(compiled.read_text())
    verdict, error, step, address = data["aligned"]["nodes"][gate(1)]
    assert (verdict, error, step) == ("fail", "0.5 of the magnitude", "step 0")
    assert data["aligned"]["page"] == "h.html" and address.startswith("#node=model.layers.1")
    assert data["timed"]["page"] == "t.html" and data["timed"]["said"] == "emulated"
    assert data["plans"][1]["seconds"] == [1e-6, None, None, 4e-6, None, None, None]
    assert data["plans"][0]["seconds"] is None


def test_json_and_trace_serve_without_links(glmc: Command, made: Path, tmp_path: Path) -> None:
    found = tmp_path / "align.json"
    found.write_text(glmc("align", made / "a.h5", made / "b.h5", "--json").out)
    page = tmp_path / "c.html"
    done = glmc(
        *("inspect", made / "toy", "--page", page),
        *("--align", found, "--timeline", made / "run.json"),
    )
    assert done.status == 0, done.err
    data = embedded(page.read_text())
    assert data["aligned"]["first"] == gate(1) and data["timed"]["label"].endswith("run.json")
    assert data["aligned"]["page"] == data["timed"]["page"] == ""


def test_a_page_that_is_none_is_refused_before_anything_is_read(
    glmc: Command, made: Path, tmp_path: Path
) -> None:
    letter, page = tmp_path / "letter.html", tmp_path / "p.html"
    letter.write_text("a letter")
    code, remedy = "GLMC-1001", "glmc inspect ARTIFACT --page FILE"
    for command in (("align", made / "a.h5", made / "b.h5"), ("timeline", made / "run.json")):
        for place, said in (
            (tmp_path / "none.html", "the compile can't be read"),
            (letter, "the file is not the page of a compile"),
            (made / "toy", "the compile can't be read"),
        ):
            done = glmc(*command, "--page", page, "--compile-page", place)
            require_refusal(done, code, said, remedy)
            assert not page.exists()
        require_refusal(glmc(*command, "--compile-page", letter), code, "add --page FILE")


def test_a_page_of_another_compile_is_refused(glmc: Command, made: Path, tmp_path: Path) -> None:
    page, compiled = tmp_path / "p.html", tmp_path / "c.html"
    assert glmc("inspect", made / "toy", "--page", compiled).status == 0
    link = ("--page", page, "--compile-page", compiled)
    done = glmc("align", made / "a.h5", made / "a.h5", *link)
    require_refusal(done, "GLMC-1001", "the page is of another compile", "toy-moe for eager")
    done = glmc("timeline", VLLM, *link)
    require_refusal(done, "GLMC-1001", "the page is of another compile", "say their model")
    assert not page.exists()
    done = glmc("timeline", made / "run.json", "--page", compiled, "--compile-page", compiled)
    require_refusal(done, "GLMC-1001", "written over", "--page another.html")


def test_measurements_of_others_are_refused(glmc: Command, made: Path, tmp_path: Path) -> None:
    page, inspect = tmp_path / "p.html", ("inspect", made / "toy")
    for option, remedy in (
        ("--align", "glmc align A B --page FILE"),
        ("--timeline", "glmc timeline FILE --page PAGE"),
    ):
        require_refusal(glmc(*inspect, option, "x"), "GLMC-1001", "add --page FILE")
        done = glmc(*inspect, "--page", page, option, tmp_path / "none")
        require_refusal(done, "GLMC-1001", "can't be read")
        assert glmc(*inspect, "--page", page).status == 0
        done = glmc(*inspect, "--page", tmp_path / "q.html", option, page)
        require_refusal(done, "GLMC-1001", "is not the page of", remedy)
    trace = json.loads((made / "run.json").read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**trace, "glmc": {**trace["glmc"], "target": "cuda"}}))
    done = glmc(*inspect, "--page", page, "--timeline", other)
    require_refusal(done, "GLMC-1001", "of another compile", "toy-moe for cuda")
