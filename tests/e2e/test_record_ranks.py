"""Records of two ranks against Hugging Face's modules: as near as one rank is, and a fault in the
shard of one rank is found where it is. Ranks are threads but where they must end."""

from __future__ import annotations

from collections.abc import Callable
from csv import DictReader
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

import psutil
import pytest
from torch import Tensor

from glmc.check.align.compare import align
from glmc.check.align.readers.open import open_record
from glmc.check.align.reference import record_checkpoint
from glmc.check.align.result import AlignedValue, Alignment
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.errors import RankError
from glmc_runtime.record.artifact import record_artifact
from glmc_runtime.record.artifact_run import ArtifactRun
from glmc_runtime.record.h5_file import H5File
from glmc_runtime.record.options import RecordOptions
from tests.e2e.build import CPU, EMULATED, Place
from tests.e2e.ranks import RankedBuilder
from tests.runtime.ranks.test_failures import children, rank_of
from tests.runtime.record.ranks.ranked import record_in_threads
from tests.runtime.record.ranks.toys import change_weight
from tests.runtime.record.recorded import MemorySink
from tests.support.command import command_of
from tests.support.models import MODERN

pytest.importorskip("h5py")
pytestmark = [
    pytest.mark.usefixtures("shared_captures"),
    pytest.mark.skipif(not MODERN, reason="modules of experts of their own"),
]
MODELS = Path(__file__).parents[2] / "models"
COMMON = {"block_size": 16, "max_context": 64, "prefill_buckets": (32,), "decode_buckets": (4,)}
PROMPTS = ((11, 403, 7, 7, 250, 99, 1, 340, 18), (5, 6))
OPTIONS = RecordOptions(PROMPTS, steps=1, tokens=((14,), (800,)))
PREFILL = replace(OPTIONS, steps=0)


@dataclass(frozen=True)
class Sides:
    """An artifact of two ranks, and the records of Hugging Face and of one rank."""

    path: Path
    run: ArtifactRun
    stock: Path
    one: Path

    def aligned(self, file: Path) -> Alignment:
        return align(open_record(self.stock), open_record(file))

    def of_ranks(self, path: Path, file: Path, options: RecordOptions = OPTIONS) -> Alignment:
        with H5File(file) as sink:
            record_in_threads(path, sink, options, self.run)
        return self.aligned(file)


Make = Callable[[str, Place], Sides]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes the sides of a model and a place, once."""
    return cache(lambda name, place: _made(name, place, tmp_path_factory.mktemp("ranks")))


@pytest.fixture
def sides(request: pytest.FixtureRequest, make: Make) -> Sides:
    return make(*request.param)


def _made(name: str, place: Place, folder: Path) -> Sides:
    builder = RankedBuilder(MODELS / name, folder / "artifacts", COMMON)
    run = ArtifactRun(load=LoadOptions(emulate=True if place.target == "xpu" else None))
    stock, one = folder / "stock.h5", folder / "one.h5"
    with H5File(stock) as sink:
        record_checkpoint(MODELS / name, sink, OPTIONS, dtype="float32")
    with H5File(one) as sink:
        record_artifact(builder.artifact(place), sink, OPTIONS, run)
    return Sides(builder.artifact(place, tensor_parallel=2), run, stock, one)


def on(name: str, place: Place, *marks: Any) -> Any:
    return pytest.param((name, place), id=f"{name}-{place.name}", marks=marks)


MOE = on("tiny-moe", CPU)
QKV = ("self_attn.qkv_proj.weight", "self_attn.qkv_proj#linear", "joined")
EXPERTS = ("mlp.experts.down_proj", "mlp.experts#sum", "summed")
LONG = [
    on(name, place, pytest.mark.long)
    for name, place in (("tiny-moe", EMULATED[0]), ("tiny-dense", CPU), ("tiny-dense", EMULATED[0]))
]


def by_name(alignment: Alignment) -> dict[tuple[int, str], AlignedValue]:
    return {(each.step, each.name): each for each in alignment.values}


@pytest.mark.long
@pytest.mark.parametrize("sides", [MOE, *LONG], indirect=True)
def test_every_value_of_two_ranks_is_as_near_as_that_of_one(sides: Sides, tmp_path: Path) -> None:
    one, two = sides.aligned(sides.one), sides.of_ranks(sides.path, tmp_path / "two.h5")
    assert two.first is None
    assert two.unpaired == one.unpaired
    known, found = by_name(one), by_name(two)
    assert known.keys() == found.keys()
    assert len(found) > 60
    for place, value in found.items():
        assert value.share is not None and value.share < 0.25, place
        allowed = max(4 * known[place].total.rmse, 1e-6 * value.total.magnitude)
        assert value.total.rmse <= allowed, place
    # Where an all-reduce is a part of the norm after it the sum is in no buffer, but the summands;
    # that of the experts is in none either way, as the shared expert's part is added before.
    fused = any("all_reduce_add_rms_norm" in value.passes for value in found.values())
    summed = {value.module for value in found.values() if value.dealt == "summed"}
    routed = {module for module in summed if module.endswith(".mlp.experts")}
    assert bool(routed) is any("moe_ffn" in value.passes for value in found.values())
    assert fused is bool(summed - routed)
    how = {value.dealt for value in found.values()} - {"summed"}
    assert how == {"whole", "joined"}
    assert not any(value.ranks_apart for value in found.values())
    assert two.facts[1]["ranks"] == 2
    assert not any("ranks differ" in remark for remark in two.remarks)


def faulty(
    sides: Sides, folder: Path, weight: str, change: Callable[[Tensor], Tensor]
) -> Alignment:
    """Of ranks of which the second has another weight."""
    path = copytree(sides.path, folder / "faulty")
    change_weight(path, weight, change)
    return sides.of_ranks(path, folder / "faulty.h5", PREFILL)


@pytest.mark.long
@pytest.mark.parametrize("sides", [MOE], indirect=True)
@pytest.mark.parametrize(
    ("weight", "node", "dealt"),
    [QKV, EXPERTS, ("self_attn.o_proj.weight", "self_attn.o_proj#linear", "summed")],
)
def test_a_fault_in_the_shard_of_one_rank_is_found_at_its_node(
    sides: Sides, weight: str, node: str, dealt: str, tmp_path: Path
) -> None:
    layer = "model.layers.1."
    alignment = faulty(sides, tmp_path, f"{layer}{weight}", lambda each: 1.5 * each)
    assert alignment.first is not None
    assert (alignment.first.node, alignment.first.dealt) == (f"{layer}{node}", dealt)
    assert not alignment.first.ranks_apart
    if dealt == "joined":
        columns = [_columns(tmp_path / "faulty.h5"), _columns(sides.stock)]
        error = (columns[0] - columns[1].view_as(columns[0])).abs()
        assert float(error[:, :96].max()) < 1e-4 < 1e-2 < float(error[:, 96:].max())


def _columns(file: Path) -> Tensor:
    wanted = "model.layers.1.self_attn.q_proj.Linear.0.forward_output.0"
    rows = [each for each in open_record(file).tensors() if str(each.key) == wanted]
    assert rows[0].step == 0 and rows[0].load is not None
    return rows[0].load()


@pytest.mark.parametrize("sides", [MOE], indirect=True)
def test_a_fault_in_what_ranks_have_alike_is_told_though_rank_0_has_none(
    sides: Sides, tmp_path: Path
) -> None:
    weight = "model.layers.1.post_attention_layernorm"
    alignment = faulty(sides, tmp_path, f"{weight}.weight", lambda each: 1.5 * each)
    (value,) = (
        each
        for each in alignment.values
        if each.name == f"{weight}.Glm4MoeRMSNorm.1.forward_output.0" and each.step == 0
    )
    assert value.node == f"{weight}#rsqrt[0]" == alignment.facts[1]["ranks_first"]
    assert value.share is not None and value.share < 1 < 100 * (value.ranks_apart or 0)
    assert any(f"the first is {value.node}" in remark for remark in alignment.remarks)
    before = alignment.values[: alignment.values.index(value)]
    assert not any(each.ranks_apart for each in before)
    assert alignment.first is not None  # the experts of rank 1 have read it
    assert alignment.values.index(alignment.first) > alignment.values.index(value)


class _Killing(MemorySink):
    """Kills the second rank when the first value has come."""

    def __init__(self) -> None:
        super().__init__()
        self.killed: list[psutil.Process] = []

    def write(self, *arguments: Any) -> None:
        if not self.killed:
            self.killed = [each for each in children() if rank_of(each) == 1]
            self.killed[0].kill()
        super().write(*arguments)


@pytest.mark.long
@pytest.mark.parametrize("sides", [MOE], indirect=True)
def test_a_rank_that_is_killed_ends_all(sides: Sides) -> None:
    sink = _Killing()
    with pytest.raises(RankError, match="rank 1 was killed by signal 9"):
        record_artifact(
            sides.path, sink, RecordOptions((tuple(range(30)),) * 4, steps=4), sides.run
        )
    assert len(sink.killed) == 1
    assert not children()


@pytest.mark.long
@pytest.mark.parametrize("sides", [on("tiny-moe", EMULATED[0])], indirect=True)
def test_align_records_a_checkpoint_and_ranks_that_it_starts(
    sides: Sides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv, glmc = tmp_path / "a.csv", command_of(capsys)
    words = ("align", MODELS / "tiny-moe", sides.path, "--ids", "11,403,7,7,250;5,6", "--emulate")
    done = glmc(*words, "--exit-code", "--csv", csv)
    assert done.status == 0, done.out + done.err
    assert "No divergence" in done.out
    with csv.open(newline="") as file:
        rows = list(DictReader(file))
    assert {row["Dealt"] for row in rows} == {"whole", "joined", "summed"}
    assert {row["Ranks Apart"] for row in rows if row["Dealt"] == "whole"} == {"0"}
    assert not children()
