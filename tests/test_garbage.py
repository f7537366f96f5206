"""Collections are rare while a plan is made, and as before afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from glmc.garbage import rare_collections


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_collections_are_rare_inside_and_as_before_outside_even_after_an_error() -> None:
    gc.set_threshold(700, 10, 10)
    with pytest.raises(ValueError, match="stop"), rare_collections():
        assert gc.get_threshold() == (50_000, 20, 100)
        raise ValueError("stop")
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("threshold", [0, 200_000])
def test_a_process_that_collects_more_seldom_or_never_goes_on_so(threshold: int) -> None:
    gc.set_threshold(threshold, 10, 200)
    with rare_collections():
        assert gc.get_threshold() == (threshold, 10, 200)


def test_no_generation_is_collected_more_often_than_before() -> None:
    gc.set_threshold(700, 10, 200)
    with rare_collections():
        assert gc.get_threshold() == (50_000, 20, 200)
