"""``glmc bisect`` on every sabotage and on crashes: step, match, and a repro that fails."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import Graph, GraphModule, Node

from glmc.check.bisect import bisect as bisection
from glmc.check.bisect import replayed
from glmc.check.bisect.bisect import MARKER, PROVED, Proved, bisect
from glmc.check.bisect.finding import BisectResult
from glmc.check.bisect.steps import Step
from glmc.check.verify.proof import SMALL_BLOCK
from glmc.compiled import Compiled, FrontEnd
from glmc.compiler import front_end
from glmc.config import CompileOptions
from glmc.errors import MatchCountError
from glmc.ir.program import Program
from glmc.job import Job, resolve
from glmc.passes import moe_gate, specialise
from glmc.passes.base import AnchorPass, Pass
from glmc.pipeline import stages as pipeline
from glmc.pipeline.events import NOBODY, Observer
from glmc.pipeline.records import Phases
from glmc.presets.catalog import ModelSource, load_config
from glmc_runtime.errors import CapacityError
from glmc_runtime.format.phases import DECODE
from tests.sabotage import SABOTAGES, sabotaged, with_wrong_constant
from tests.support.cases import give_cases
from tests.support.checkpoints import tiny_checkpoint

pytestmark = pytest.mark.usefixtures("shared_captures")
# One of each way to go wrong; the others take the same road and run with the slow tests.
QUICK = ("cache_slot_off_by_one",)
ENOUGH = ("one token", "all scores equal")
OPTIONS = CompileOptions(max_context=64, dtype="float32")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return load_config(tiny_checkpoint(tmp_path_factory.mktemp("bisect") / "model", "glm-4.7"))


@pytest.fixture(autouse=True)
def _few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    give_cases(monkeypatch, *ENOUGH)


def give_proved(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """These steps of the float32 program were proved before."""
    steps = frozenset(f"{name} in float32, blocks of {SMALL_BLOCK}" for name in names)
    monkeypatch.setattr(bisection, "proved_steps", lambda job: steps)


class Everything(frozenset[str]):
    """All that anybody may ever have proved."""

    def __contains__(self, step: object) -> bool:
        return True


def run_here(text: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status and output of a repro that is run as a script, but in this process."""
    path = folder / "repro.py"
    path.write_text(text, encoding="utf-8")
    capsys.readouterr()
    status = 0
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    return status, capsys.readouterr().out


def run(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "repro.py"
    path.write_text(text, encoding="utf-8")
    return subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)


def found_in(
    source: ModelSource, options: CompileOptions = OPTIONS, *, skip_proved: bool = False
) -> BisectResult:
    found = bisect(source, options, skip_proved=skip_proved)
    assert found is not None
    assert found.repro.startswith(MARKER)
    return found


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in SABOTAGES],
)
def test_a_sabotage_is_found_and_its_repro_fails(
    name: str,
    source: ModelSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layer = 0 if sabotaged(name).pass_name not in ("moe_gate", "moe_ffn", "shared_expert") else 2
    sabotage = sabotaged(name, (layer,))
    sabotage.install(monkeypatch)
    if name == "cache_rope_interleaved":  # the first position is not turned at all
        give_cases(monkeypatch, *ENOUGH, "random tokens")
    # As after a --verify, which proves the steps before the one that is wrong.
    names = (*(each.name for each in pipeline.PASSES), "kv_cache")
    give_proved(monkeypatch, *names[: names.index(sabotage.pass_name)])
    found = found_in(source, skip_proved=True)
    assert (found.step, found.layer) == (sabotage.pass_name, layer)
    assert found.match is not None
    assert f"layers.{layer}." in found.match
    assert found.source.startswith("modeling_glm4_moe.py:")
    assert 0 < found.nodes <= 40
    status, out = run_here(found.repro, tmp_path, capsys)
    assert status == 1
    assert out.startswith(f"{found.step}, {found.node}: off by ")


@pytest.mark.long
def test_a_repro_passes_once_the_fault_is_mended(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotaged("wrong_norm_eps", (0,)).install(monkeypatch)
    text = found_in(source).repro
    (line,) = (line for line in text.splitlines() if "glmc.rms_norm.default(" in line)
    mended = text.replace(line, re.sub(r"[\d.]+e-\d+\)", "1e-05)", line))
    assert mended != text
    outcome = run(mended, tmp_path)
    assert outcome.returncode == 0
    assert "as it must be" in outcome.stdout


@pytest.mark.long
def test_a_right_model_has_nothing_to_find(source: ModelSource) -> None:
    heard: list[Step] = []
    assert bisect(source, OPTIONS, lambda step, text: heard.append(step)) is None
    names = [step.name for step in heard]
    assert names[:3] == ["canonical", "clean", "rms_norm"]
    assert names[-5:] == ["prefill", "decode", "lowering", "each kernel call", "replayed plan"]
    assert [step.number for step in heard] == list(range(1, heard[0].total + 1))
    assert str(heard[0]).startswith(f"step  1 of {heard[0].total}  float32")


@pytest.mark.long
def test_what_was_proved_is_captured_once_and_its_plan_is_replayed(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a replay is known from before: it may have been on another machine."""
    captured: list[Job] = []

    def front(job: Job, observer: Observer = NOBODY) -> FrontEnd:
        captured.append(job)
        return front_end(job, observer)

    for module in (bisection, replayed):
        monkeypatch.setattr(module, "front_end", front)
    give_cases(monkeypatch)
    monkeypatch.setattr(bisection, "proved_steps", lambda job: Everything())
    told: list[tuple[str, str, bool]] = []
    options = replace(OPTIONS, dtype="bfloat16")

    def tell(step: Step, text: str) -> None:
        told.append((step.dtype, step.name, text == PROVED))

    assert bisect(source, options, tell, skip_proved=True) is None
    assert [job.options.dtype for job in captured] == ["float32", "bfloat16"]
    made = [(dtype, name) for dtype, name, proved in told if not proved]
    assert made == [
        ("bfloat16", "lowering"),
        ("float32", "each kernel call"),
        ("bfloat16", "replayed plan"),
    ]


@pytest.mark.long
def test_a_fault_of_the_bfloat16_plan_alone_is_found(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bisection.back_end

    def wrong(*arguments: Any) -> Compiled:
        return with_wrong_constant(real(*arguments), "plan_routed_scale")

    monkeypatch.setattr(bisection, "back_end", wrong)
    found = bisect(source, replace(OPTIONS, dtype="bfloat16", decode_buckets=(1, 8)))
    assert found is not None and found.step == "replayed plan"
    assert "VIOLATED" in found.what and "every call computes its node" in found.what
    assert "'--verify'" in found.repro


@pytest.mark.parametrize("step", ["front_end", "back_end", "wrong_call"])
def test_memory_that_runs_out_is_no_finding(
    step: str, source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wrong with a pass, a lowering or a call that got no memory."""

    def short(*given: object, **named: object) -> None:
        raise RuntimeError("can't allocate memory: you tried to allocate 68719476736 bytes")

    if step != "front_end":
        front = FrontEnd(resolve(source, OPTIONS), Phases({}, ()), {}, {})
        proved = Proved(Program(GraphModule({}, Graph()), {}, source.shape, torch.float32), front)
        monkeypatch.setattr(bisection, "_graph", lambda *given: proved)
    if step == "wrong_call":
        monkeypatch.setattr(bisection, "back_end", lambda *given: None)
        for name in ("front_end", "back_end", "model_weights", "write_compiled"):
            monkeypatch.setattr(replayed, name, lambda *given, **named: None)

        def load(*given: object, **named: object) -> None:
            try:
                short()
            except RuntimeError as error:
                raise CapacityError("the weights do not fit into memory") from error

        monkeypatch.setattr(replayed, "machines_of", load)
        with pytest.raises(CapacityError):
            bisect(source, OPTIONS)
        return
    monkeypatch.setattr(bisection, step, short)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        bisect(source, OPTIONS)


def crashing(layer: int, where: str) -> tuple[Pass, ...]:
    def match(anchor: Node, program: Program) -> Any:
        gate = moe_gate.PASS.match(anchor, program)
        if where == "match" and gate.router.x.meta["layer"] == layer:
            raise KeyError("no such thing")
        return gate

    def rewrite(rewriter: Any, gate: Any) -> None:
        moe_gate.PASS.rewrite(rewriter, gate)
        if where == "rewrite" and gate.router.x.meta["layer"] == layer:
            raise KeyError("no such thing")

    assert isinstance(moe_gate.PASS, AnchorPass)
    broken = replace(moe_gate.PASS, match=match, rewrite=rewrite)
    return tuple(broken if one.name == "moe_gate" else one for one in pipeline.PASSES)


@pytest.mark.parametrize("where", ["match", "rewrite"])
def test_a_crash_of_a_pass_is_cut_down_to_its_match(
    where: str, source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_cases(monkeypatch)
    monkeypatch.setattr(pipeline, "PASSES", crashing(2, where))
    found = found_in(source)
    assert (found.step, found.match) == ("moe_gate", "model.layers.2.mlp.gate#gather")
    assert "KeyError: 'no such thing'" in found.what
    assert 0 < found.nodes <= 30
    scope: dict[str, Any] = {}
    with pytest.raises(KeyError, match="no such thing"):
        exec(found.repro, scope)
    monkeypatch.undo()
    exec(found.repro, scope)  # with the real pass it runs through


@pytest.mark.slow
def test_a_crash_elsewhere_is_shown_by_the_model_with_the_fewest_layers(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(program: Program) -> Program:
        if program.model.layers < 2:
            return specialise_decode(program)
        raise ArithmeticError("too deep")

    specialise_decode = specialise.decode
    give_cases(monkeypatch)
    monkeypatch.setattr(specialise, "PHASES", {**specialise.PHASES, DECODE.key: decode})
    found = found_in(source)
    assert found.step == "specialise"
    assert "A model of 2 layers is enough." in found.what
    with pytest.raises(ArithmeticError, match="too deep"):
        exec(found.repro, {})


def test_lost_fusions_are_the_compile_s_own_error(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = tuple(one for one in pipeline.PASSES if one.name != "qkv_merge")
    give_cases(monkeypatch)
    monkeypatch.setattr(pipeline, "PASSES", fewer)
    with pytest.raises(MatchCountError, match="qkv_merge"):
        bisect(source, OPTIONS)
