"""Bands from times: as many as there are, none that noise made, the same from run to run."""

from __future__ import annotations

import random

import pytest

from glmc_runtime.collectives.bands import (
    algorithm_at,
    choose_bands,
    fitted,
    smoothed,
    without_outliers,
)
from glmc_runtime.format.collectives import Band

SIZES = tuple(1 << power for power in range(10, 25))


def line(latency: float, rate: float) -> list[float]:
    return [latency + size / rate for size in SIZES]


TIMES = {"one_shot": line(10, 500), "two_shot": line(100, 2000), "butterfly": line(300, 300)}
CROSSING = 90 * 500 * 2000 / 1500  # bytes: 60,000


def test_a_crossing_becomes_a_bound_next_to_it() -> None:
    bands = choose_bands(TIMES, SIZES)
    assert [band.algorithm for band in bands] == ["one_shot", "two_shot"]
    assert bands[0].below is not None and CROSSING / 2 < bands[0].below < CROSSING * 2


def test_there_are_as_many_bands_as_it_takes() -> None:
    times = {
        "library": [9.0] * 4 + [90.0] * 11,
        "butterfly": [30.0] * 8 + [900.0] * 7,
        "ring": [100.0] * 15,
    }
    bands = choose_bands({**times, "library": [9.0] * 4 + [200.0] * 11}, SIZES)
    assert bands == (Band(1 << 14, "library"), Band(1 << 18, "butterfly"), Band(None, "ring"))


def test_a_single_algorithm_has_one_band() -> None:
    assert choose_bands({"ring": line(1, 1)}, SIZES) == (Band(None, "ring"),)


def test_one_that_is_hardly_faster_makes_no_band() -> None:
    times = {"a": line(100, 1000), "b": [value * 0.97 for value in line(100, 1000)]}
    assert len(choose_bands(times, SIZES)) == 1


def test_a_disturbed_time_makes_no_band() -> None:
    times = {"a": line(100, 1000), "b": [value * 1.2 for value in line(100, 1000)]}
    times["a"][6] *= 4  # a rank was late
    assert choose_bands(times, SIZES) == (Band(None, "a"),)


@pytest.mark.parametrize("seed", range(20))
def test_two_runs_over_noise_give_the_same_bands(seed: int) -> None:
    draw = random.Random(seed)

    def noisy() -> dict[str, list[float]]:
        return {
            name: [value * draw.uniform(1, 1.1) for value in values]
            for name, values in TIMES.items()
        }

    first = choose_bands(noisy(), SIZES)
    assert first == choose_bands(noisy(), SIZES)
    assert choose_bands(noisy(), SIZES, [first]) is first


def test_much_noise_seldom_makes_a_band_and_seldom_ends_one() -> None:
    there = Band(1 << 18, "one_shot"), Band(None, "two_shot")
    stayed = alone = 0
    for seed in range(50):
        draw = random.Random(seed)
        noisy = {
            name: [value * draw.uniform(1, 2) for value in line(10, 500)]
            for name in ("one_shot", "two_shot", "butterfly", "halving_doubling")
        }
        stayed += choose_bands(noisy, SIZES, [there]) == there
        alone += len(choose_bands(noisy, SIZES)) == 1
    assert stayed >= 40 and alone >= 38


@pytest.mark.parametrize("seed", range(20))
def test_what_is_much_faster_is_seen_through_noise(seed: int) -> None:
    draw = random.Random(seed)
    noisy = {
        name: [value * draw.uniform(1, 1.5) for value in values] for name, values in TIMES.items()
    }
    bands = choose_bands(noisy, SIZES, [(Band(None, "one_shot"),)])
    assert [band.algorithm for band in bands] == ["one_shot", "two_shot"]


def test_bands_that_are_there_stay_while_they_are_good_enough() -> None:
    there = (Band(1 << 16, "one_shot"), Band(None, "two_shot"))
    assert choose_bands(TIMES, SIZES, [there]) is there
    worse = (Band(1 << 12, "one_shot"), Band(None, "two_shot"))
    assert choose_bands(TIMES, SIZES, [worse]) != worse
    foreign = (Band(None, "ring"),)
    assert choose_bands(TIMES, SIZES, [foreign, there]) is there


@pytest.mark.parametrize("seed", range(5))
def test_no_size_is_far_behind_the_best(seed: int) -> None:
    draw = random.Random(seed)
    times = {name: line(draw.uniform(5, 200), draw.uniform(100, 3000)) for name in "abcd"}
    bands = choose_bands(times, SIZES)
    for place, size in enumerate(SIZES):
        best = min(values[place] for values in times.values())
        assert times[algorithm_at(bands, size)][place] <= 1.25 * best


def test_what_stands_out_counts_as_its_neighbours_do() -> None:
    assert without_outliers([1.0, 2.0, 9.0, 2.5, 3.0]) == [1.0, 2.0, 2.5, 3.0, 3.0]
    assert without_outliers([7.0]) == [7.0] and without_outliers([7.0, 1.0]) == [7.0, 1.0]


def test_a_straight_curve_stays_as_it_is() -> None:
    straight = [3.0 + 2 * place for place in range(9)]
    assert smoothed(straight) == pytest.approx(straight)
    assert smoothed([7.0]) == [7.0]
    noisy = [value + (-1) ** place for place, value in enumerate(straight)]
    off = [abs(a - b) for a, b in zip(smoothed(noisy), straight, strict=True)]
    assert max(off[2:-2]) < 0.2


def test_latency_and_bandwidth_are_found_again() -> None:
    link = fitted("messages", SIZES, line(120, 1500))
    assert (link.latency, link.bandwidth) == (pytest.approx(120), pytest.approx(1500))
    falling = fitted("messages", (1000, 2000), (10.0, 5.0))
    assert falling.latency > 0 and falling.bandwidth == pytest.approx(400)
