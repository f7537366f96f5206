"""``glmc bisect`` of a model that is dealt to two ranks: the node, and a repro that needs none."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc.check.bisect.bisect import bisect
from glmc.cli.main import main
from glmc.config import CompileOptions
from glmc.pipeline import stages as pipeline
from glmc.presets.catalog import load_config
from glmc.weights.random_checkpoint import write_random_checkpoint
from tests import dealt_sabotage
from tests.check.bisect.test_bisect import give_proved, run_here
from tests.dealt_sabotage import DEALT
from tests.support.cases import give_cases
from tests.support.checkpoints import tiny_file

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("shared_captures")]
BEFORE = (*(each.name for each in pipeline.PASSES), "kv_cache")
OPTIONS = CompileOptions(max_context=64, dtype="float32", tensor_parallel=2)
QUICK = ("vocabulary_off_by_one",)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dealt") / "model"
    write_random_checkpoint(folder, tiny_file("glm-4.7", vocab_size=dealt_sabotage.VOCABULARY))
    return folder


@pytest.fixture(autouse=True)
def _few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    give_cases(monkeypatch, "random tokens")


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in DEALT],
)
def test_a_sabotage_is_found_and_its_repro_fails(
    name: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dealt_sabotage.install(monkeypatch, name)
    give_proved(monkeypatch, *BEFORE)
    found = bisect(load_config(model), OPTIONS, skip_proved=True)
    assert found is not None
    assert (found.step, found.node) == ("shard", DEALT[name].node)
    status, out = run_here(found.repro, tmp_path, capsys)
    assert status == 1
    assert out.startswith(f"shard, {found.node}: off by ")


def test_a_right_model_of_two_ranks_has_nothing_to_find(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each kernel call of both ranks too, and the replayed plan: as threads of this process."""
    give_proved(monkeypatch, *BEFORE)
    repro = tmp_path / "repro.py"
    arguments = ["bisect", str(model), "--dtype", "float32", "--tensor-parallel", "2"]
    assert main([*arguments, "-o", str(repro)]) == 0
    printed = capsys.readouterr()
    assert "Nothing is wrong" in printed.out and not repro.exists()
    assert "float32   shard" in printed.err and "each kernel call" in printed.err
