"""A group is measured within its time, and its table holds what it says."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from glmc_runtime.collectives import tune as module
from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.measure import all_reduces, measure
from glmc_runtime.collectives.tune import Wanted, tune, tune_job
from glmc_runtime.errors import GuardError
from glmc_runtime.format.algorithms import of_class
from glmc_runtime.format.collectives import AlgorithmTable, Band, choices, default_table
from glmc_runtime.format.collectives_json import read_table, table_to_text
from tests.runtime.collectives.conftest import in_groups
from tests.support.peers import peers_by_the_library

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
QUICK = Wanted(seconds=0.2)


def tables(size: int, wanted: Wanted) -> list[AlgorithmTable]:
    return in_groups(size, lambda group: tune(group, CPU, wanted))


@pytest.fixture(autouse=True)
def _few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SIZES", (1 << 10, 1 << 12, 1 << 14))


def test_all_ranks_have_the_same_table() -> None:
    first, *others = tables(3, QUICK)
    assert all(other == first for other in others)
    assert read_table(table_to_text(first).encode()) == first
    assert [entry.key.dtype for entry in first.entries] == ["float32", "bfloat16", "float16"]
    for entry in first.entries:
        assert entry.numerics == "tree" and entry.origin.kind == "measured"
        assert {band.algorithm for band in entry.bands} <= set(of_class("tree"))
        assert {link.medium for link in entry.links} == {"messages", "memory"}
        assert {curve.algorithm for curve in entry.curves} == {"library", *of_class("tree")}
    (choice,) = choices(first, first.entries[0].key, (4096,))
    assert choice.expected and choice.library and choice.saving


def test_with_any_order_all_compete() -> None:
    table, *_ = tables(2, replace(QUICK, numerics="any"))
    on_hosts = set(of_class("any")) - set(of_class("rank_order"))
    assert {curve.algorithm for curve in table.entries[0].curves} == on_hosts
    assert table.entries[0].numerics == "any"


def test_a_table_that_is_good_enough_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "choose_bands", lambda times, sizes, incumbents: incumbents[0])
    before = default_table("cpu", 2)
    entry = replace(before.entries[0], bands=(Band(None, "two_shot"),))
    table, *_ = tables(2, replace(QUICK, previous=AlgorithmTable((entry,))))
    assert table.entries[0].bands == entry.bands
    assert table.entries[1].bands == before.entries[1].bands


def test_ranks_without_shared_memory_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(group: Group) -> None:
        raise GuardError("the ranks can't share memory")

    monkeypatch.setattr(Group, "shared_memory", refuses)
    table, *_ = tables(2, QUICK)
    names = {curve.algorithm for curve in table.entries[0].curves}
    assert names == {"library", "butterfly", "halving_doubling"}
    assert {link.medium for link in table.entries[0].links} == {"messages"}


def test_the_job_has_options_that_are_text() -> None:
    previous = table_to_text(default_table("cpu", 2))
    texts = in_groups(2, lambda group: tune_job(group, CPU, "any", previous, seconds=0.2))
    assert texts[0] == texts[1] and read_table(texts[0].encode()).entries[0].numerics == "any"


def test_measuring_ends_in_time_on_all_ranks() -> None:
    def run(group: Group) -> tuple[int, float]:
        thunks = all_reduces(group, ("one_shot", "butterfly"), (1024, 4096), torch.float32, CPU)
        started = time.perf_counter()
        times = measure(group, thunks, 0.3, CPU)
        spent = time.perf_counter() - started
        (rounds,) = {len(values) for values in times.rounds.values()}
        assert all(times.typical(case) > 0 for case in thunks)
        return rounds, spent

    results = in_groups(2, run)
    assert len({rounds for rounds, _ in results}) == 1
    assert all(rounds >= 3 and spent < 5 for rounds, spent in results)


def test_sizes_end_where_a_call_takes_too_long() -> None:
    def run(group: Group) -> set[int]:
        sizes = tuple(1 << power for power in range(10, 20))
        cases = all_reduces(group, ("one_shot",), sizes, torch.float32, CPU, seconds=0.0)
        return {size for _, size in cases}

    assert in_groups(2, run) == [{1 << 10, 1 << 11}] * 2


@pytest.mark.parametrize("numerics", ["rank_order", "any"])
def test_over_the_memory_of_peers_only_what_a_card_takes_competes(
    numerics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another class never wins by its time: the order of the ranks has two kernels, and with any
    order the library comes in, which sums in an order of its own."""
    asked: list[set[str]] = []

    def choose(times: Mapping[str, object], *_: object, **bars: float) -> tuple[Band, ...]:
        asked.append(set(times))
        assert bars == {"margin": 0.05, "saving": 0.05}
        return (Band(None, "peer_two_shot"),)

    peers_by_the_library(monkeypatch)
    monkeypatch.setattr(module, "choose_bands", choose)
    monkeypatch.setattr(module, "_media", lambda *_: {"messages", "peers"})
    table, *_ = tables(2, replace(QUICK, numerics=numerics))
    kernels = set(of_class("rank_order"))
    assert all(one == kernels | ({"library"} if numerics == "any" else set()) for one in asked)
    curves = {curve.algorithm for curve in table.entries[0].curves}
    assert {"library", *kernels} <= curves and ("butterfly" in curves) == (numerics == "any")
    assert {link.medium for link in table.entries[0].links} == {"messages", "peers"}
    assert table.entries[0].predicted("peer_two_shot", 4096)


def test_the_order_of_the_ranks_needs_the_memory_of_peers() -> None:
    with pytest.raises(GuardError, match="memory of peers is that of cards"):
        tables(2, replace(QUICK, numerics="rank_order"))
