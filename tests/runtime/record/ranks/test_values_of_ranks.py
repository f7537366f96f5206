"""A record of two ranks: that of one, and what is said of ranks that differ. Ranks are threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmc_runtime.errors import RankError
from glmc_runtime.record.artifact import record_artifact
from glmc_runtime.record.artifact_run import ArtifactRun
from glmc_runtime.record.options import RecordOptions
from glmc_runtime.record.ranks.values_of_ranks import ValuesOfRanks
from glmc_runtime.record.values_to_sink import ValuesToSink
from tests.runtime.record.ranks.ranked import record_in_threads
from tests.runtime.record.ranks.toys import SHARES, change_weight, write_valued
from tests.runtime.record.recorded import MemorySink, differing, same_bits

PROMPTS = ((3, 14, 15), (9, 2, 6, 5, 3, 5))
LONG = (tuple(range(1, 19)), (5, 4, 3))
"""Beyond the largest bucket: a step takes two replays."""
SMALL = 16 * 72 * 4
"""Tap memory that has no room for the values of a step."""


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("toys")
    return {ranks: write_valued(folder / str(ranks), ranks) for ranks in (1, 2)}


def recorded(path: Path, run: ArtifactRun | None = None, **options: Any) -> MemorySink:
    sink, prompts = MemorySink(), options.pop("prompts", PROMPTS)
    record_in_threads(path, sink, RecordOptions(prompts, **options), run or ArtifactRun())
    return sink


@pytest.mark.parametrize("prompts", [PROMPTS, LONG], ids=["whole", "parts"])
@pytest.mark.parametrize(
    "run",
    [ArtifactRun(), ArtifactRun(graph=False), ArtifactRun(tap_memory=SMALL)],
    ids=["replayed", "called", "groups"],
)
def test_the_record_of_two_ranks_is_that_of_one(
    toys: dict[int, Path], prompts: Any, run: ArtifactRun
) -> None:
    one, two = MemorySink(), recorded(toys[2], run, prompts=prompts, steps=2)
    record_artifact(toys[1], one, RecordOptions(prompts, steps=2), run)
    for step in range(3):
        shares, words = (
            (step, str(SHARES)),
            two.tensors[step, str(SHARES).replace("shares", "words")],
        )
        assert same_bits(two.tensors.pop(shares), words)
        facts = two.facts[shares]
        assert (facts["dealt"], facts["ranks_apart"]) == ("summed", None)
    assert differing(one, two) == []
    assert one.lengths == two.lengths
    assert {name: two.run[name] for name in one.run} == one.run
    assert (two.run["ranks"], two.run["ranks_unequal"]) == (2, 0)
    whole = {
        (facts["dealt"], facts["ranks_apart"])
        for place, facts in two.facts.items()
        if place in two.tensors
    }
    assert whole == {("whole", 0.0)}


def test_ranks_that_differ_where_they_should_not_are_told(tmp_path: Path) -> None:
    path = write_valued(tmp_path, 2)
    change_weight(path, "places", lambda weight: weight + 0.5)
    sink = recorded(path, steps=1, tokens=((7,), (1,)))
    apart = {name.split(".")[3]: sink.facts[step, name]["ranks_apart"] for step, name in sink.facts}
    assert apart["words"] == 0.0
    assert apart["places"] == pytest.approx(0.5)
    assert apart["logits"] > 0
    place = (0, "model.layers.0.places.Toy.0.forward_output.0")
    assert sink.run["ranks_first"] == sink.facts[place]["node"]
    assert sink.run["ranks_unequal"] == sum(
        1 for facts in sink.facts.values() if facts["ranks_apart"]
    )
    assert sink.run["ranks_apart"] >= apart["logits"]


def test_ranks_that_compute_other_tokens_have_no_record(tmp_path: Path) -> None:
    path = write_valued(tmp_path, 2)
    change_weight(path, "head", lambda weight: -weight)
    with pytest.raises(RankError, match="different tokens") as caught:
        recorded(path, steps=2)
    assert "--like" in str(caught.value)


def test_ranks_that_tell_of_other_values_have_no_record() -> None:
    said = [
        {"kind": "begin", "step": 0, "lengths": [3]},
        {"kind": "begin", "step": 1, "lengths": [3]},
    ]
    reads = [lambda each=each: (each, None) for each in said]
    ranks = ValuesOfRanks(ValuesToSink(MemorySink()), {}, reads)  # type: ignore[arg-type]
    with pytest.raises(RankError, match="other values than each other") as caught:
        ranks.follow()
    assert "'step': 1" in caught.value.found
