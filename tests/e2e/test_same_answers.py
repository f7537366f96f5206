"""float32: greedy tokens are those of Hugging Face's eager code, on every target.

16 ragged prompts in one batch, 64 tokens each, prompts packed whole and cut into chunks. The
default run takes a few points of the grid; ``-m slow`` takes all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc_runtime.generate.session import Session
from tests.e2e.build import CHUNKED, PLACES, UNCHUNKED, Builder, Place, generated
from tests.e2e.grid import GRID, Point, build, write_checkpoint
from tests.e2e.reference import NEW_TOKENS, describe_difference, greedy, load_eager, prompts

AXES = {
    False: ("family", "bias", "kv_heads", "head_dim", "tied"),
    True: (
        *("bias", "kv_heads", "head_dim", "tied"),
        *("qk_norm", "leading_dense", "groups", "normalise", "scale"),
    ),
}
VALUES: dict[str, tuple[Any, ...]] = {
    "family": ("glm", "glm4"),
    "kv_heads": (1, 2, 4),
    "head_dim": (64, 96, 128),
    "leading_dense": (0, 1, 2, 3),
    "groups": (1, 4),
    "scale": (1.0, 2.5),
}
# Interleaved rope; tied and sandwich norms; no q/k norm with groups; q/k norm with everything.
DEFAULT = (GRID[0], GRID[2], GRID[9], GRID[14])
QUICK = (GRID[0], GRID[14])
# Of a mixture the normal suite has the answers of test_allow_missing.py and test_outer_engine.py.
LONG = (GRID[14],)
WAYS = {"whole": UNCHUNKED, "chunked": CHUNKED}
FEW_TOKENS = 20  # more than a block
POINTS = [
    pytest.param(
        point,
        id=point.name,
        marks=pytest.mark.long if point in LONG else () if point in QUICK else pytest.mark.slow,
    )
    for point in GRID
]


@pytest.mark.parametrize("mixture", [False, True])
def test_the_grid_covers_every_pair(mixture: bool) -> None:
    points = [point for point in GRID if (point.family == "glm4_moe") is mixture]
    for one, two in combinations(AXES[mixture], 2):
        seen = {(getattr(point, one), getattr(point, two)) for point in points}
        wanted = {
            (first, second)
            for first in VALUES.get(one, (False, True))
            for second in VALUES.get(two, (False, True))
        }
        assert seen == wanted, (one, two)


@pytest.mark.parametrize("point", [DEFAULT[1], DEFAULT[3]], ids=lambda point: point.name)
def test_the_reference_does_not_depend_on_the_batch(point: Point) -> None:
    model, texts = build(point), prompts()
    together = greedy(model, texts)
    for row in (0, 6, 15):
        assert greedy(model, [texts[row]]) == [together[row]]


@pytest.mark.parametrize("point", POINTS)
def test_tokens_are_those_of_hugging_face(point: Point, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(point, tmp_path / "checkpoint", torch.float32)
    model, texts = load_eager(checkpoint, torch.float32), prompts()
    expected = greedy(model, texts)
    _require_lively(expected)
    builder = Builder(checkpoint, tmp_path / "artifacts")
    problems = []
    for place, way, count in _runs(every=point not in QUICK):
        session = builder.session(place, **WAYS[way])
        texts_made = generated(session, texts, count)
        assert (_prefill_steps(session) == 1) is (way == "whole")
        problems += [
            f"{place.name}, {way}: {describe_difference(model, text, wanted[:count], made)}"
            for text, wanted, made in zip(texts, expected, texts_made, strict=True)
            if wanted[:count] != made
        ]
    assert not problems, "\n".join(problems)


def _runs(every: bool) -> Iterator[tuple[Place, str, int]]:
    """Place, way and number of tokens. The normal suite runs to the end on the CPU and in the first
    profile; the others differ from that in their calls, of which the chunked way has all."""
    for place in PLACES:
        for way in WAYS:
            if every or place in PLACES[:2]:
                yield place, way, NEW_TOKENS
            elif way == "chunked":
                yield place, way, FEW_TOKENS


def _prefill_steps(session: Session) -> int:
    counts = session.statistics.buckets.items()
    return sum(bucket.steps for (phase, _), bucket in counts if phase == "prefill")


def _require_lively(texts: list[list[int]]) -> None:
    """A text that repeats one token would be right by chance."""
    distinct = [len(set(text)) for text in texts]
    assert sum(distinct) / len(distinct) > 20, distinct
    assert len({tuple(text) for text in texts}) == len(texts)
