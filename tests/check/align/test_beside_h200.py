"""A reference that an H200 computed: cuda there, and the CPU and the emulator here, are within what
is allowed of it, and a planted fault is not."""

from __future__ import annotations

from functools import cache

import pytest

from glmc.check.align.compare import align
from glmc.check.align.readers.open import open_record
from glmc.check.align.result import Alignment, Verdict
from tests.check.align.air_layer import digest
from tests.check.align.aligned import SHIPPED, Aligner
from tests.check.align.beside_h200 import beside, nearest, require_sound
from tests.check.align.faults import FAULTS
from tests.check.align.h200 import FOLDER, TINY, TINY_CUDA, digest_of

pytestmark = pytest.mark.usefixtures("shared_captures")
# The tokens of all routers by step, whose weights and ids are two values each.
ROUTED = (3 * 2 * 11, 3 * 2 * 2, 3 * 2 * 2)


@cache
def model() -> Aligner:
    return Aligner(SHIPPED / "tiny-moe")


def by_rounding(alignment: Alignment) -> None:
    """Another machine rounds otherwise: the sides are not bit for bit the same."""
    assert 0.2 < nearest(alignment) < 1


def test_the_records_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 2_000_000


def test_the_weights_are_those_of_the_reference() -> None:
    assert digest(SHIPPED / "tiny-moe") == digest_of(TINY) == digest_of(TINY_CUDA)


@pytest.mark.long
def test_cuda_on_the_same_card() -> None:
    found = align(open_record(TINY), open_record(TINY_CUDA))
    require_sound(found, 159, ROUTED)
    assert [each["made_by"] for each in found.facts] == [
        "Hugging Face transformers 5.17.0, cuda",
        "glmc artifact, cuda",
    ]
    assert not found.emulated
    assert round(nearest(found), 2) == 0.75


@pytest.mark.long
@pytest.mark.parametrize("place", ["cpu", "xpu/P-A"])
def test_other_targets_are_within_what_is_allowed(place: str) -> None:
    compared, own = beside(TINY, model(), place)
    require_sound(compared, 174, ROUTED)
    by_rounding(compared)
    assert compared.emulated == (place != "cpu")
    require_sound(own, 211, ROUTED)
    assert all(each.own is not None and each.bound is not None for each in own.values)


@pytest.mark.long
@pytest.mark.parametrize(
    ("place", "name"), [("cpu", "softmax_scale_twice"), ("xpu/P-A", "router_without_bias")]
)
def test_a_planted_fault_is_found(place: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    fault.install(monkeypatch)
    compared, own = beside(TINY, model(), place)
    for found in (compared, own):
        assert found.first is not None
        assert found.first.node.partition("[")[0] == fault.node
        assert found.first.phase == "prefill"
    assert {each.node.partition("[")[0] for each in own.values if each.verdict is Verdict.OWN} == {
        fault.node
    }
