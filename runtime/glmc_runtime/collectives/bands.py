"""From times to bands: which algorithm up to which size, so that two runs say the same.

Times are noisy. They are smoothed over neighbouring sizes, what is nearly the best counts as the
best, another band must save more than noise would, which the curves themselves show, and bands that
are there already stay while they are good enough. Bounds are sizes that were measured, powers of
four where they do as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import log
from statistics import median

from glmc_runtime.format.algorithms import Link
from glmc_runtime.format.collectives import Band, merged

MARGIN = 0.08
"""By how much bands that are there already may be slower than the best."""
_SAME = 0.03
_SWITCH = 0.15
ON_CARDS = 0.05
"""The margin, and what another band must save, on a card, where graphs leave little noise."""
_NOISE = 8.0
"""How often the usual distance of a ratio from its curve another band must save, added up."""
_DOUBT = 5.0
"""The same for one size, where bands are there already."""
_ODD_BOUND = 0.03
_LEAST_LATENCY = 0.01


def choose_bands(
    times: Mapping[str, Sequence[float]],
    sizes: Sequence[int],
    incumbents: Sequence[tuple[Band, ...]] = (),
    margin: float = MARGIN,
    saving: float = _SWITCH,
) -> tuple[Band, ...]:
    """Bands over the algorithms of ``times``, which has a time for each of ascending ``sizes``.

    The first of the ``incumbents`` stays whose algorithms are all among them and at no size slower
    than the best by more than the margin, or than what times are usually far from their curves.
    Else the bands that together lose least, where each one more must save ``saving``, and more
    where times are far from their curves, added up over sizes.
    """
    curves = _curves(times)
    losses, noise = _losses(curves), _noise(curves)
    allowed = max(log(1 + margin), _DOUBT * noise)
    for bands in incumbents:
        if all(band.algorithm in losses for band in bands):
            lost = [losses[algorithm_at(bands, size)][place] for place, size in enumerate(sizes)]
            if max(lost) <= allowed:
                return bands
    switch = max(saving, _NOISE * noise)
    names = _cheapest(losses, sizes, switch)
    bounds = [*sizes[1:], None]
    return merged(Band(below, name) for below, name in zip(bounds, names, strict=True))


def _curves(times: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """For each algorithm and size the logarithm of its time over the mean's: what disturbs all
    algorithms of a size falls out."""
    logs = {name: [log(value) for value in values] for name, values in times.items()}
    means = [sum(values) / len(logs) for values in zip(*logs.values(), strict=True)]
    return {
        name: [value - mean for value, mean in zip(values, means, strict=True)]
        for name, values in logs.items()
    }


def _losses(curves: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """For each algorithm and size the logarithm of its time over the best's, smoothed."""
    smooth = {name: smoothed(without_outliers(values)) for name, values in curves.items()}
    best = [min(values) for values in zip(*smooth.values(), strict=True)]
    return {
        name: [value - least for value, least in zip(values, best, strict=True)]
        for name, values in smooth.items()
    }


def _noise(curves: Mapping[str, Sequence[float]]) -> float:
    """How far the ratio of two algorithms usually is from its smoothed curve: the median over all
    sizes and pairs; 0 of one algorithm."""
    far = [0.0]
    for one, other in combinations(curves.values(), 2):
        ratios = [a - b for a, b in zip(one, other, strict=True)]
        level = smoothed(without_outliers(ratios))
        far += [abs(ratio - usual) for ratio, usual in zip(ratios, level, strict=True)]
    return median(far)


def algorithm_at(bands: Sequence[Band], size: int) -> str:
    """The algorithm of a message of ``size`` bytes."""
    return next(band.algorithm for band in bands if band.below is None or size < band.below)


def _cheapest(
    losses: Mapping[str, Sequence[float]], sizes: Sequence[int], least: float
) -> list[str]:
    """An algorithm for each size: by dynamic programming over what is lost and switched, which
    costs ``least`` or more."""
    names = list(losses)
    costs = {name: (_lost(losses[name][0]), [name]) for name in names}
    for place in range(1, len(sizes)):
        switch = least + (0.0 if _is_power_of_four(sizes[place]) else _ODD_BOUND)
        before = costs
        costs = {}
        for name in names:
            came = min(names, key=lambda one: before[one][0] + switch * (one != name))
            cost, path = before[came]
            cost += switch * (came != name) + _lost(losses[name][place])
            costs[name] = (cost, [*path, name])
    return min(costs.values(), key=lambda pair: pair[0])[1]


def _lost(loss: float) -> float:
    return loss if loss > _SAME else 0.0


def _is_power_of_four(size: int) -> bool:
    return size & (size - 1) == 0 and size.bit_length() % 2 == 1


def without_outliers(values: Sequence[float]) -> list[float]:
    """Each value as the median of it and its neighbours: one that stands out counts as they do."""
    inner = [sorted(three)[1] for three in zip(values, values[1:], values[2:], strict=False)]
    return [*values[:1], *inner, *values[-1:]] if len(values) > 1 else list(values)


def smoothed(values: Sequence[float]) -> list[float]:
    """Each value from a line through those up to two places away, nearer ones with more weight: a
    straight curve stays as it is."""
    result = []
    for place in range(len(values)):
        near = range(max(place - 2, 0), min(place + 3, len(values)))
        weights = [3 - abs(one - place) for one in near]
        level, _ = _line(weights, [one - place for one in near], [values[one] for one in near])
        result.append(level)
    return result


def _line(
    weights: Sequence[float], places: Sequence[float], values: Sequence[float]
) -> tuple[float, float]:
    """Value at 0 and slope of the line of least squares; level where all places are the same."""
    total = sum(weights)
    mean = sum(w * x for w, x in zip(weights, places, strict=True)) / total
    level = sum(w * y for w, y in zip(weights, values, strict=True)) / total
    spread = sum(w * (x - mean) ** 2 for w, x in zip(weights, places, strict=True))
    together = sum(
        w * (x - mean) * (y - level) for w, x, y in zip(weights, places, values, strict=True)
    )
    slope = together / spread if spread else 0.0
    return level - slope * mean, slope


def fitted(medium: str, sizes: Sequence[float], microseconds: Sequence[float]) -> Link:
    """Latency and bandwidth of steps of these sizes, by least squares of what is off in ratio."""
    weights = [1 / value**2 for value in microseconds]
    latency, slope = _line(weights, sizes, microseconds)
    if slope <= 0:  # noise: as if all of the largest were bytes
        latency, slope = microseconds[0], microseconds[-1] / sizes[-1]
    return Link(medium, max(latency, _LEAST_LATENCY), 1 / slope)
