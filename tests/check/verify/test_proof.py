"""The whole proof of a compile: no false alarm, what is said and where, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc.check.verify import proved as proved_before
from glmc.check.verify.cases import real_prompts, small_activations
from glmc.check.verify.proof import step_of
from glmc.check.verify.proved import proved_steps
from glmc.check.verify.replay import Reference, verify_replay
from glmc.check.verify.scope import VerifiedPart, narrow, whole
from glmc.check.verify.verifier import Verifier
from glmc.compiled import FrontEnd
from glmc.compiler import back_end, front_end
from glmc.config import CompileOptions
from glmc.job import Job, read_job, resolve
from glmc.pipeline.stages import PASSES
from glmc.presets.catalog import load_config, preset_names
from glmc_runtime.kernels.cpu.kept import cache_folder
from tests.sabotage import sabotaged
from tests.support.command import SMALL, command_of, require_refusal

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("shared_captures")]
MODELS = Path(__file__).parents[3] / "models"
DTYPES = (torch.bfloat16, torch.float16)
BUCKETS = {"decode_buckets": (4, 8), "prefill_buckets": (16, 128), "max_context": 128}
OPTIONS = CompileOptions(block_size=16, **BUCKETS)
DEFAULT = ("tiny-dense", "tiny-moe")
NAMES = [
    pytest.param(name, marks=() if name == "tiny-moe" else pytest.mark.slow)
    for name in (*DEFAULT, *preset_names())
]


def test_tests_keep_what_they_prove_out_of_the_cache_of_the_user(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    own = tmp_path_factory.getbasetemp().resolve()
    assert cache_folder("proofs").is_relative_to(own)


@cache
def scope_of(name: str, dtype: torch.dtype) -> VerifiedPart:
    """The shipped checkpoints whole, presets narrow."""
    if name in DEFAULT:
        return whole(read_job(MODELS / name, OPTIONS), dtype)
    return narrow(load_config(name), dtype)


@cache
def proved(name: str, dtype: torch.dtype) -> tuple[FrontEnd, Verifier]:
    """Every step, which raises for one that is violated."""
    scope = scope_of(name, dtype)
    verifier = Verifier(scope.cases, scope.weights, layers=scope.layers)
    return front_end(_job(scope), verifier), verifier


def _job(scope: VerifiedPart, **changes: Any) -> Job:
    dtype = str(scope.dtype).removeprefix("torch.")
    return resolve(scope.source, replace(OPTIONS, dtype=dtype, **changes))


@pytest.mark.parametrize("name", NAMES)
def test_no_step_is_a_false_alarm_in_float32(name: str) -> None:
    front, verifier = proved(name, torch.float32)
    steps = [*(each.name for each in PASSES), "kv_cache", "prefill", "decode"]
    assert list(verifier.verdicts) == steps
    assert all(verdict.holds for verdict in verifier.verdicts.values())
    weights = scope_of(name, torch.float32).weights
    assert verifier.captured is not None
    for target in ("cpu", "xpu"):
        plan = back_end(front, _job(scope_of(name, torch.float32), target=target))
        for used in (weights, weights.altered(small_activations)):
            reference = Reference(verifier.captured, verifier.captured, used)
            verdict = verify_replay(plan, reference, real_prompts(front.job.source.directory))
            assert verdict.holds, verdict.text


# The mixture in the dtype of every published one.
QUICK = (("tiny-moe", torch.bfloat16),)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(
            *(name, dtype),
            id=f"{name}-{dtype}".replace("torch.", ""),
            marks=() if (name, dtype) in QUICK else pytest.mark.slow,
        )
        for name in (*DEFAULT, *preset_names())
        for dtype in DTYPES
    ],
)
def test_no_step_is_a_false_alarm(name: str, dtype: torch.dtype) -> None:
    exact, (front, verifier) = proved(name, torch.float32)[1], proved(name, dtype)
    assert all(verdict.holds for verdict in verifier.verdicts.values())
    assert verifier.captured is not None and exact.captured is not None
    for target in ("cpu", "xpu"):
        job = _job(scope_of(name, dtype), target=target)
        reference = Reference(
            verifier.captured, exact.captured, scope_of(name, torch.float32).weights
        )
        texts = real_prompts(front.job.source.directory)
        verdict = verify_replay(back_end(front, job), reference, texts)
        assert verdict.holds, verdict.text


def test_the_command_prints_and_keeps_every_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proved_before, "_FOLDER", "proofs-of-one-compile")
    run, artifact, dump = command_of(capsys), tmp_path / "artifact", tmp_path / "dump"
    model = MODELS / "tiny-dense"
    done = run("compile", model, *SMALL, "--verify", "--dump", dump, "-o", artifact)
    assert done.status == 0, done.err
    lines = [line for line in done.err.splitlines() if line.startswith("verify ")]
    names = [line.split()[1] for line in lines]
    assert names[0] == "verified" and names[-1] == "replayed" and "rms_norm" in names
    assert "checkpoint tiny-dense" in lines[0]
    report = json.loads((artifact / "report.json").read_text())
    assert all("verdict" in one for one in report["passes"])
    (replayed,) = [text for text in report["remarks"] if text.startswith("replayed plan: cpu, ")]
    said = done.out + done.err  # once each, on the one or on the other
    assert said.count("checkpoint tiny-dense") == said.count(replayed.partition(": ")[2]) == 1
    _, rows, results = replayed.split(": ")
    assert rows == "cpu, 2 sequences, 18 rows"
    exact, small, rounded = results.split("; ")  # each says what it is of
    assert exact.startswith("in float32 off by at most ")
    assert small.startswith("in float32 with small activations off by at most ")
    assert rounded.startswith("in bfloat16 ")
    verdicts = json.loads((dump / "verdicts.json").read_text())
    assert "bitwise: 13 rewrites equal on 6 inputs" in verdicts["rms_norm"]
    job = read_job(model, CompileOptions())
    assert {step_of(job, name) for name in ("rms_norm", "decode")} <= proved_steps(job)
    assert "rewrites equal" not in next(dump.glob("*_fuse_rms_norm.txt")).read_text()


def test_a_violated_class_fails_the_compile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotaged("routed_scale_twice", (3,)).install(monkeypatch)
    out = ("-o", tmp_path / "artifact")
    done = command_of(capsys)("compile", MODELS / "tiny-moe", *SMALL, "--verify", *out)
    words = ("pass moe_gate, match model.layers.3.mlp", "layer 3", "modeling_glm4_moe.py")
    require_refusal(done, "GLMC-1010", *words, status=1)
    assert not (tmp_path / "artifact").exists()


def test_a_big_model_names_its_own_layer() -> None:
    """Of glm-4.7, which has three dense layers, layers 0 and 3 are verified as 0 and 1."""
    scope = narrow(load_config("glm-4.7"), torch.float32)
    sabotage = sabotaged("shared_expert_dropped")
    broken = next(one for one in sabotage.passes if one.name == "shared_expert")
    verifier = Verifier(scope.cases[:1], scope.weights, strict=False, layers=scope.layers)
    with pytest.MonkeyPatch.context() as patch:
        sabotage.install(patch)
        front_end(_job(scope, weights="none"), verifier)
    (violation,) = verifier.verdicts[broken.name].violations
    assert violation.layer == 3 and violation.node.startswith("model.layers.3.mlp")
