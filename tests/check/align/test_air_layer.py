"""A layer as wide as GLM-4.5-Air's, beside what Hugging Face computed of it on an H200."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.check.align.air_layer import IDS, STEPS, digest, write_air_layer
from tests.check.align.aligned import OPTIONS, Aligner
from tests.check.align.beside_h200 import beside, nearest, require_sound
from tests.check.align.h200 import AIR, digest_of

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("shared_captures")]
# One router: two values, of the rows that the reference has of the prefill.
ROUTED = (2 * 2, 2 * 2, 2 * 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aligner]:
    folder = tmp_path_factory.mktemp("air") / "layer"
    try:
        made = write_air_layer(folder)
        assert digest(made) == digest_of(AIR), "the reference is of other weights"
        yield Aligner(made)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("place", ["cpu", "xpu/P-A"])
def test_the_layer_is_within_what_is_allowed(place: str, model: Aligner) -> None:
    options = replace(OPTIONS, weights="from-checkpoint")
    compared, own = beside(AIR, model, place, options)
    require_sound(compared, 51, ROUTED)
    assert 0.2 < nearest(compared) < 1
    assert compared.emulated == (place != "cpu")
    assert compared.facts[0]["prompts"] == ids()
    assert {each.step for each in compared.values} == set(range(STEPS + 1))
    require_sound(own, 61, ROUTED)
    assert all(each.own is not None and each.bound is not None for each in own.values)


def ids() -> list[list[int]]:
    return [[int(token) for token in prompt.split(",")] for prompt in IDS.split(";")]
