"""memory_plan: no two buffers that live at once may overlap, in any bucket."""

from __future__ import annotations

import random

import pytest

from glmc.errors import InternalError
from glmc.lowering.memory_plan import ALIGNMENT, MemoryPlan, Request, plan
from glmc_runtime.format.extent import Extent

SYMBOLS = ("tokens", "sequences", "patches")


def random_requests(seed: int, count: int = 60) -> list[Request]:
    source = random.Random(seed)
    requests = []
    for identifier in range(count):
        first = source.randrange(40)
        lane = source.choice(("tokens", "tokens", "sequences", "patches", "constant"))
        size = Extent.of(**{lane: source.randrange(1, 5000)})
        requests.append(Request(identifier, size, first, first + source.randrange(8)))
    return requests


def overlaps(requests: list[Request], result: MemoryPlan, sizes: dict[str, int]) -> list:
    spans = [
        (
            item,
            result.offsets[item.id].evaluate(sizes),
            item.size.evaluate(sizes),
        )
        for item in requests
    ]
    return [
        (one.id, other.id)
        for index, (one, start, size) in enumerate(spans)
        for other, other_start, other_size in spans[:index]
        if one.first <= other.last and other.first <= one.last
        if start < other_start + other_size and other_start < start + size
    ]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("step", [(1, 1, 1), (7, 3, 9), (512, 1, 3), (512, 32, 1)])
def test_live_buffers_never_overlap(seed: int, step: tuple[int, int, int]) -> None:
    requests = random_requests(seed)
    result = plan(requests, SYMBOLS)
    sizes = dict(zip(SYMBOLS, step, strict=True))
    assert overlaps(requests, result, sizes) == []
    for item in requests:
        end = result.offsets[item.id].evaluate(sizes) + item.size.evaluate(sizes)
        assert end <= result.arena.evaluate(sizes)
        assert result.offsets[item.id].evaluate(sizes) % ALIGNMENT == 0


def test_the_overlap_check_can_fail() -> None:
    requests = [Request(0, Extent.of(tokens=4), 0, 1), Request(1, Extent.of(tokens=4), 1, 2)]
    bad = MemoryPlan({0: Extent(), 1: Extent()}, Extent.of(tokens=64))
    assert overlaps(requests, bad, {"tokens": 3}) == [(1, 0)]


def test_memory_is_used_again_after_the_last_use() -> None:
    chain = [Request(index, Extent.of(tokens=1000), index, index + 1) for index in range(10)]
    assert plan(chain, SYMBOLS).arena == Extent.of(tokens=2 * 1024)


def test_the_peak_is_a_lower_bound_and_reached_when_sizes_are_equal() -> None:
    requests = [
        Request(index, Extent.of(tokens=256), index // 3, index // 3 + 2) for index in range(30)
    ]
    peak = max(
        sum(256 for item in requests if item.first <= call <= item.last) for call in range(12)
    )
    assert plan(requests, SYMBOLS).arena == Extent.of(tokens=peak)


def test_a_size_that_mixes_symbols_is_refused() -> None:
    with pytest.raises(InternalError, match="mixes step sizes"):
        plan([Request(0, Extent.of(tokens=4, constant=8), 0, 0)], SYMBOLS)


def test_the_same_requests_give_the_same_plan() -> None:
    assert plan(random_requests(5), SYMBOLS) == plan(random_requests(5), SYMBOLS)
