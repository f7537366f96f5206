"""What was proved is known again for the same model, sources and options, and for no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glmc.artifact import inputs
from glmc.check.verify import proved
from glmc.check.verify.proof import Proof, step_of
from glmc.check.verify.proved import proved_steps, remembered
from glmc.check.verify.scope import model_cases, model_weights
from glmc.check.verify.verdict import Verdict, Violation
from glmc.check.verify.verifier import Verifier
from glmc.config import CompileOptions
from glmc.job import Job, read_job
from tests.support.cases import give_cases
from tests.support.checkpoints import tiny_checkpoint

OPTIONS = CompileOptions(dtype="bfloat16")
WRONG = Violation("rope", "bitwise", None, "mul", 0, "one token", 1.0, 0.0, "")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("proved") / "model")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path))
    return tmp_path / "proofs"


def ended(job: Job) -> Proof:
    """A proof that ended with rope."""
    verdicts = {
        "clean": Verdict("clean", "bitwise", "equal"),
        "rope": Verdict("rope", "bitwise", "VIOLATED", (WRONG,)),
    }
    verifier = Verifier(model_cases(job.source), model_weights(job), verdicts=verdicts)
    return Proof(job, _whole=[(job, verifier)])


def test_what_holds_is_known_again_and_what_is_wrong_is_not(model: Path) -> None:
    job = read_job(model, OPTIONS)
    assert proved_steps(job) == frozenset()
    with pytest.raises(ArithmeticError), remembered(ended(job)):
        raise ArithmeticError
    assert proved_steps(job) == {step_of(job, "clean")}
    assert step_of(job, "clean") == "clean in bfloat16, blocks of 128"


@pytest.mark.parametrize("options", [{"target": "xpu"}, {"max_context": 64}, {"force": True}])
def test_graphs_do_not_depend_on_the_target(options: dict[str, str], model: Path) -> None:
    job, other = read_job(model, OPTIONS), read_job(model, replace(OPTIONS, **options))
    with remembered(ended(job)):
        pass
    assert proved_steps(other) == {step_of(other, "clean")}


def another_source(model: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(inputs, "sources_hash", lambda: "another")
    return read_job(model, OPTIONS)


def fewer_cases(model: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    give_cases(monkeypatch, "one token")
    return read_job(model, OPTIONS)


def another_processor(model: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    return read_job(model, OPTIONS)


def copied(model: Path, changed: Path) -> Path:
    changed.mkdir(exist_ok=True)
    for path in model.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    return changed


def another_file(model: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    changed = copied(model, model.parent / "changed")
    weights = bytearray((changed / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (changed / "model.safetensors").write_bytes(weights)
    return read_job(changed, OPTIONS)


def with_options(**options: object) -> Callable[[Path, pytest.MonkeyPatch], Job]:
    def other(model: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
        return read_job(model, replace(OPTIONS, **options))  # type: ignore[arg-type]

    return other


@pytest.mark.parametrize(
    "other",
    [
        another_source,
        another_processor,
        fewer_cases,
        another_file,
        with_options(dtype="float16"),
        with_options(block_size=64),
        with_options(passes_off=("qk_norm",)),
        with_options(weights="random"),
    ],
)
def test_of_anything_else_nothing_is_known(
    other: Callable[[Path, pytest.MonkeyPatch], Job], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remembered(ended(read_job(model, OPTIONS))):
        pass
    assert proved_steps(other(model, monkeypatch)) == frozenset()


def test_of_files_that_change_during_a_proof_nothing_is_known(
    model: Path, tmp_path: Path, folder: Path
) -> None:
    """Neither of what they were, as weights are read late, nor of what they are."""
    changing = copied(model, tmp_path / "changing")
    config = changing / "config.json"
    before = config.read_text()
    begun = inputs.inputs_of_model(changing, OPTIONS)
    with remembered(ended(read_job(changing, OPTIONS))):
        config.write_text(before.replace('"rope_theta": ', '"rope_theta": 1'))
    with remembered(ended(read_job(changing, OPTIONS)), begun):
        pass  # it was written to while the model was read
    assert config.read_text() != before
    assert proved_steps(read_job(changing, OPTIONS)) == frozenset()
    config.write_text(before)
    assert proved_steps(read_job(changing, OPTIONS)) == frozenset()
    assert not folder.exists() or not list(folder.iterdir())
    with remembered(ended(read_job(changing, OPTIONS)), begun):
        pass
    assert proved_steps(read_job(changing, OPTIONS))


def test_a_damaged_file_is_as_none(model: Path, folder: Path) -> None:
    job = read_job(model, OPTIONS)
    with remembered(ended(job)):
        pass
    (path,) = folder.iterdir()
    path.write_text("[")
    assert proved_steps(job) == frozenset()
    with remembered(ended(job)):
        pass
    assert proved_steps(job) == {step_of(job, "clean")}


def test_few_files_stay(model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proved, "_FILES", 2)
    for seed in range(4):
        with remembered(ended(read_job(model, replace(OPTIONS, seed=seed)))):
            pass
    assert len(list(folder.iterdir())) == 2
