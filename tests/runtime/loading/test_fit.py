"""The table of what fits: each cell follows from the sums."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmc_runtime.errors import RequestError
from glmc_runtime.format.memory import MemoryNeeds, memory_needs
from glmc_runtime.loading.fit import CARDS, FitReport, Wanted, artifact_fit
from glmc_runtime.loading.loader import Artifact, load_artifact
from tests.runtime.toy import write_toy


@pytest.fixture(scope="module")
def artifact(toy_path: Path) -> Artifact:
    return load_artifact(toy_path)


@pytest.fixture(scope="module")
def needs(artifact: Artifact) -> MemoryNeeds:
    return memory_needs(artifact.manifest, artifact.plans)


def cells(report: FitReport) -> list[dict[str, str]]:
    return [dict(zip(report.columns(), row, strict=True)) for row in report.rows()]


def test_a_card_that_is_just_large_enough(artifact: Artifact, needs: MemoryNeeds) -> None:
    """What fits to the byte fits, and one byte less does not."""
    enough = needs.total(2, 40)
    wanted = Wanted((f"{enough}B", f"{enough - 1}B", f"{needs.weights}"), batch=2, context=40)
    fits, short, none = artifact_fit(artifact, wanted).cards
    assert (fits.missing, short.missing) == (0, 1)
    assert (fits.cards, short.cards) == (1, 2)
    assert {fit.batch: fit.context for fit in fits.fits}[2] == 40
    assert {fit.batch: fit.context for fit in short.fits}[2] < 40
    assert fits.tokens == 2 * 40
    assert none.left < 0 and not any(fit.context for fit in none.fits)
    assert none.cards == -(-enough // needs.weights)


def test_words_for_a_card_that_is_too_small(artifact: Artifact, needs: MemoryNeeds) -> None:
    wanted = Wanted(("1KiB",), batch=4, context=17)
    report = artifact_fit(artifact, wanted)
    (row,) = cells(report)
    assert (row["card"], row["GiB"], row["batch x context"]) == ("1KiB", "0.0", "-")
    assert row["left for cache"] == f"{(needs.without_cache - 1024) / 1024:.1f} KiB short"
    assert not any(column.startswith("context at") for column in row)  # no batch has any
    assert row["4 x 17"] == f"{(needs.total(4, 17) - 1024) / 1024:.1f} KiB short"
    text = report.text()
    for words in (
        "repacks",
        "a plain division",
        "compiled with --tensor-parallel is counted exactly",
        "GiB 2^30",
        "--kv-",
        "the workspace",
    ):
        assert words in text


def test_a_cache_that_is_given_its_size(artifact: Artifact, needs: MemoryNeeds) -> None:
    """It bounds what fits on a card with more room, and needs the room."""
    memory = 4 * needs.block
    card = needs.without_cache + memory
    wanted = Wanted(
        ("1GiB", f"{card - 1}"), context=4 * needs.block_size, cache_memory=f"{memory}B"
    )
    large, small = artifact_fit(artifact, wanted).cards
    assert large.tokens == 3 * needs.block_size and large.missing == needs.block
    assert (small.cache, small.tokens) == (0, 0)
    # What is asked for needs less than the cache is given, and the card has no room for that.
    wanted = Wanted((f"{card - 1}",), context=1, cache_memory=f"{memory}B")
    report = artifact_fit(artifact, wanted)
    assert (report.cards[0].missing, report.cards[0].cards) == (1, 2)
    assert report.total == card and "--kv-blocks 4." in report.text()


def test_json_is_whole(artifact: Artifact) -> None:
    report = artifact_fit(artifact, Wanted())
    data = json.loads(json.dumps(report.to_json()))
    assert [card["name"] for card in data["cards"]] == list(CARDS)
    assert data["asked"] == {
        "batch": 1,
        "context": 60,
        "kv_blocks": report.blocks,
        "total_bytes": report.total,
    }
    assert data["cards"][0]["memory"] == 24 * 10**9


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(("0GiB",)),
        Wanted(("much",)),
        Wanted(cache_memory="much"),
        Wanted(batch=0),
        Wanted(context=0),
        Wanted(batch=5),
        Wanted(context=61),
    ],
    ids=str,
)
def test_what_is_refused(wanted: Wanted, artifact: Artifact) -> None:
    with pytest.raises(RequestError):
        artifact_fit(artifact, wanted)


def test_each_rank_has_a_card(tmp_path: Path) -> None:
    artifact = load_artifact(write_toy(tmp_path / "toy", ranks=2))
    enough = memory_needs(artifact.manifest, artifact.plans).total(1, 1)
    wanted = Wanted((f"{enough}B", f"{enough - 1}B"), batch=1, context=1)
    report = artifact_fit(artifact, wanted)
    assert [card.cards for card in report.cards] == [2, 4]
    assert report.to_json()["ranks"] == 2
    text = report.text()
    assert "on each of 2 ranks" in text and "one for each rank" in text
    assert "nothing replicated" not in text
