"""Which files a dump has, and that they are the same bytes each time."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from glmc.compiled import Compiled
from glmc.compiler import compile_plan
from glmc.config import CompileOptions
from glmc.errors import LoweringError, MatchCountError, PackError, UsageError
from glmc.job import read_job
from glmc.observe.dump.dumper import Dumper
from glmc.observe.dump.folder import MARKER
from glmc.observe.dump.options import DumpOptions
from glmc.observe.dump.stages import step_names
from glmc.observe.events import Planned
from glmc.pipeline import stages as pipeline
from glmc.pipeline.events import Event, StageBegun, StepDone
from glmc_runtime.errors import MissingPackageError
from glmc_runtime.format.phases import DECODE
from tests.support.checkpoints import tiny_checkpoint

pytestmark = pytest.mark.usefixtures("shared_captures")
OPTIONS = CompileOptions(decode_buckets=(1, 2), prefill_buckets=(16,), max_context=64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"))


@dataclass(frozen=True)
class Recording:
    """One compile, to be watched as often as a test likes."""

    events: tuple[StepDone, ...]
    compiled: Compiled


@pytest.fixture(scope="module")
def once(model: Path) -> Recording:
    events: list[StepDone] = []

    class Kept:
        def observe(self, event: Event) -> None:
            if isinstance(event, StepDone):
                events.append(replace(event, program=event.program.copy()))

    job = read_job(model, OPTIONS)
    compiled = compile_plan(job, Kept())
    return Recording(tuple(events), compiled)


def replay(once: Recording, dumper: Dumper) -> Dumper:
    with dumper:
        for event in once.events:
            dumper.observe(event)
        dumper.observe(Planned(once.compiled))
    return dumper


def dump(once: Recording, **wanted: Any) -> Dumper:
    return replay(once, Dumper(DumpOptions(**wanted)))


def compile_watched(model: Path, **wanted: Any) -> Dumper:
    dumper = Dumper(DumpOptions(**wanted))
    with dumper:
        dumper.observe(Planned(compile_plan(read_job(model, OPTIONS), dumper)))
    return dumper


def names(folder: Path, ending: str = ".txt") -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(ending))


def test_every_step_is_written_and_the_same_each_time(once: Recording, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        dump(once, directory=folder, onnx=True, picture=1)
    labels = [name.removesuffix(".txt") for name in names(first)]
    assert len(labels) == len(step_names()) + 2
    assert labels[0] == "000_capture" and labels[4] == "004_fuse_rope"
    assert labels[-2:] == ["017_lower_prefill", "018_lower_decode"]
    assert [name.removesuffix(".py") for name in names(first, ".py")] == labels[:-2]
    assert {path.name for path in first.iterdir()} == {path.name for path in second.iterdir()}
    for path in first.iterdir():
        if path.name != "times.json":
            assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    times = json.loads((first / "times.json").read_text())
    assert times["compile"]["004_fuse_rope"] > 0 and times["dump"]["000_capture"] > 0


def test_headers_say_what_the_pass_did(once: Recording, tmp_path: Path) -> None:
    dump(once, directory=tmp_path, after=("moe_gate",))
    assert names(tmp_path) == ["008_fuse_moe_gate.txt"]
    for ending in (".txt", ".py"):
        text = (tmp_path / f"008_fuse_moe_gate{ending}").read_text()
        assert "pass moe_gate: 2 matches, 0 near misses" in text and "verified" not in text
    data = json.loads((tmp_path / "008_fuse_moe_gate.json").read_text())
    assert data["matches"] == [f"model.layers.{layer}.mlp.gate#gather" for layer in (1, 2)]
    assert data["near_misses"] == [] and data["stage"] == "fuse"


def test_before_is_what_the_step_before_left(once: Recording, tmp_path: Path) -> None:
    dump(once, directory=tmp_path, before=("rope",), after=("rms_norm",))
    assert names(tmp_path) == ["003_fuse_rms_norm.txt", "004_fuse_rope.before.txt"]
    left, right = ((tmp_path / name).read_text().split("\n\n", 1)[1] for name in names(tmp_path))
    assert left == right


def test_both_phases_go_by_the_pass_that_makes_them(once: Recording, tmp_path: Path) -> None:
    dump(once, directory=tmp_path, after=("specialise", "lower"), before=("decode",))
    assert names(tmp_path) == [
        "015_phase_prefill.txt",
        "016_phase_decode.before.txt",
        "016_phase_decode.txt",
        "017_lower_prefill.txt",
        "018_lower_decode.txt",
    ]


def test_what_changed_nothing_is_left_out(once: Recording, tmp_path: Path) -> None:
    dump(once, directory=tmp_path, changed=True)
    assert "011_fuse_silu_mul.txt" not in names(tmp_path)
    assert "012_fuse_shared_expert.txt" in names(tmp_path)


def test_verdicts_have_a_file_of_their_own(once: Recording, tmp_path: Path) -> None:
    plain, proved = tmp_path / "plain", tmp_path / "proved"
    dump(once, directory=plain, after=("rope",))
    verdicts = {"rope": "within bound"}
    replay(once, Dumper(DumpOptions(directory=proved, after=("rope",)), verdicts))
    assert json.loads((proved / "verdicts.json").read_text()) == verdicts
    assert names(proved, "") == sorted([*names(plain, ""), "verdicts.json"])
    for name in names(plain, ""):
        if name != "times.json":
            assert (plain / name).read_bytes() == (proved / name).read_bytes(), name


def test_full_writes_every_layer(once: Recording, tmp_path: Path) -> None:
    dump(once, directory=tmp_path, after=("clean",), full=True)
    text = (tmp_path / "002_normal_clean.txt").read_text()
    assert "layer 2: " in text and " like layer " not in text
    assert "def layer_2(" in (tmp_path / "002_normal_clean.py").read_text()


def test_calls_name_their_nodes(once: Recording, tmp_path: Path) -> None:
    dump(once, directory=tmp_path, after=("lower",), full=True)
    text = (tmp_path / "018_lower_decode.txt").read_text()
    assert "from self_attn.q_proj#linear, self_attn.k_proj#linear, self_attn.v_proj#linear" in text
    data = json.loads((tmp_path / "018_lower_decode.json").read_text())
    calls = sorted((call for block in data["blocks"] for call in block["calls"]), key=_index)
    plan = once.compiled.plans[DECODE.key]
    assert [call["function"] for call in calls] == [call.function for call in plan.calls]
    gate = next(call for call in calls if call["node"] == "model.layers.1.mlp.gate#gather")
    assert "moe_gate" in gate["passes"] and "model.layers.1.mlp.gate#sigmoid" in gate["origins"]
    assert gate["source"].startswith("modeling_glm4_moe.py")


def _index(call: dict[str, Any]) -> int:
    index: int = call["index"]
    return index


def failing(model: Path, folder: Path, expected: type[Exception]) -> str:
    """The note on the error of a compile with --dump-on-failure."""
    with pytest.raises(expected) as raised:
        compile_watched(model, on_failure=True, failure_directory=folder)
    (note,) = raised.value.__notes__
    return note


def test_a_pass_that_raises_leaves_its_program(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        name, numerics = "rope", pipeline.PASSES[3].numerics

        def run(self, program: Any) -> Any:
            raise KeyError("sin")

    passes = tuple(Broken() if one.name == "rope" else one for one in pipeline.PASSES)
    monkeypatch.setattr(pipeline, "PASSES", passes)
    note = failing(model, tmp_path / "new", KeyError)
    assert note == f"  dump:     {tmp_path / 'new' / '004_fuse_rope.failed.txt'}"
    assert names(tmp_path / "new", "") == [MARKER, *_three("004_fuse_rope.failed")]


def _three(label: str) -> list[str]:
    return [f"{label}.json", f"{label}.py", f"{label}.txt"]


def test_a_lost_fusion_leaves_the_program(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = tuple(one for one in pipeline.PASSES if one.name != "add_rms_norm")
    monkeypatch.setattr(pipeline, "PASSES", passes)
    note = failing(model, tmp_path, MatchCountError)
    assert "_match_counts.failed.txt" in note and Path(note.split()[-1]).is_file()


def test_an_op_without_kernel_leaves_the_phase(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glmc.backends.cpu import TARGET

    monkeypatch.setattr("glmc.job.target_by_name", lambda name: _without_moe(TARGET))
    note = failing(model, tmp_path, LoweringError)
    assert "017_lower_prefill.failed.txt" in note
    assert "last_rows" in (tmp_path / "017_lower_prefill.failed.txt").read_text()


def _without_moe(target: Any) -> Any:

    rules = {name: rule for name, rule in target.rules.items() if name != "moe_ffn"}
    return replace(target, rules=rules)


def test_nothing_is_written_without_a_failure_or_a_graph(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "none"
    compile_watched(model, on_failure=True, failure_directory=folder)
    assert not folder.exists()

    def refuse(*_: object) -> None:
        raise KeyError("no model")

    monkeypatch.setattr("glmc.compiler.capture", refuse)
    assert "before there was a graph" in failing(model, folder, KeyError)
    assert not folder.exists()


def test_refusals(once: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no pass 'ropes'"):
        DumpOptions(directory=tmp_path, after=("ropes",))
    with pytest.raises(UsageError, match="--dump-changed needs a folder"):
        DumpOptions(changed=True)
    with pytest.raises(UsageError, match="no layer 7") as raised:
        dump(once, directory=tmp_path / "picture", picture=7)
    assert raised.value.expected == "0 to 2"
    (tmp_path / "mine.txt").write_text("")
    for options in (
        DumpOptions(directory=tmp_path),
        DumpOptions(None, (), (), False, True, tmp_path),
    ):
        with pytest.raises(PackError, match="taken"):
            Dumper(options)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="onnx"):
        DumpOptions(directory=tmp_path, onnx=True)


def test_a_plan_that_cannot_be_written_is_no_fault_of_the_program(
    once: Recording, tmp_path: Path
) -> None:
    dumper = Dumper(DumpOptions(on_failure=True, failure_directory=tmp_path / "none"))
    with pytest.raises(OSError) as raised, dumper:
        for event in (StageBegun("capture"), *once.events, Planned(once.compiled)):
            dumper.observe(event)
        dumper.observe(StageBegun("weights"))
        raise OSError("the disk is full")
    assert not hasattr(raised.value, "__notes__")
    assert not (tmp_path / "none").exists()
