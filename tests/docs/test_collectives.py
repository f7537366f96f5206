"""docs/collectives.md against the algorithms, their classes, the records and the defaults."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise
from statistics import median
from typing import Any

import pytest

from glmc_runtime.collectives import bands, shared_memory
from glmc_runtime.format import algorithms, collectives
from glmc_runtime.format.algorithms import ALGORITHMS, NUMERICS
from tests.docs.markdown import ROOT, section, table_rows

PAGE = ROOT / "docs" / "collectives.md"
RECORDS = (
    collectives.AlgorithmTable,
    collectives.TableEntry,
    collectives.GroupKey,
    collectives.Band,
    collectives.Origin,
    algorithms.Link,
    collectives.Curve,
)


def test_each_algorithm_has_its_class_and_its_medium() -> None:
    text = section(PAGE, "Algorithms").partition("### Numerics")[0]
    rows = {row[0].strip("`"): (row[1].strip("`"), row[2]) for row in table_rows(text)}
    assert rows == {name: (one.numerics, one.medium) for name, one in ALGORITHMS.items()}
    assert f"pieces of {shared_memory.CAPACITY >> 20} MiB" in text.replace("\n", " ")


def test_each_class_says_on_what_its_bits_depend() -> None:
    words = {True: "yes", False: "no", None: "not known"}
    rows = {row[0].strip("`"): row[1:] for row in table_rows(section(PAGE, "Numerics classes"))}
    assert list(rows) == list(NUMERICS)
    for name, one in NUMERICS.items():
        _, of_place, of_ranks = rows[name]
        assert re.split("[:,]", of_place)[0] == words[one.of_place]
        assert re.split("[:,]", of_ranks)[0] == words[one.of_ranks]


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_fields_are_those_of_the_record(kind: Any) -> None:
    rows = table_rows(section(PAGE, f"{kind.__name__} fields"))
    assert [row[0].strip("`") for row in rows] == [one.name for one in dataclasses.fields(kind)]


def test_media_of_a_link_are_those_of_the_algorithms() -> None:
    (meaning,) = [row[1] for row in table_rows(section(PAGE, "Link fields")) if "medium" in row[0]]
    media = dict.fromkeys(one.medium for one in ALGORITHMS.values())
    assert re.findall(r"`(\w+)`", meaning) == list(media)


def test_given_tables_are_the_defaults() -> None:
    for target, shown, numerics in table_rows(section(PAGE, "Given tables")):
        entry = collectives.default_table(target.strip("`"), 8).entries[0]
        assert numerics.strip("`") == entry.numerics
        names = re.findall(r"`(\w+)`", shown)
        assert names == [band.algorithm for band in entry.bands]
        below = re.search(r"below (\d+) (KiB|MiB)", shown)
        bounds = [band.below for band in entry.bands if band.below is not None]
        units = {"KiB": 1 << 10, "MiB": 1 << 20}
        assert bounds == ([int(below[1]) * units[below[2]]] if below else [])


def test_margins_are_those_of_the_bands() -> None:
    text = " ".join(section(PAGE, "Measure a table").split())
    assert f"{bands._SAME * 100:.0f} % count as the same" in text
    assert f"must save {bands._SWITCH * 100:.0f} %" in text
    assert f"more than {bands.MARGIN * 100:.0f} % behind" in text
    times = {5.0: "five", 8.0: "eight"}
    assert f"or {times[bands._NOISE]} times the noise, which" in text
    assert f"or {times[bands._DOUBT]} times the noise: those" in text


# The tables of "Measured", and what the page says of them.

KIB, MIB = 1 << 10, 1 << 20
TWO, FOUR = "2 ranks", "4 ranks"
APART = "4 ranks, without shared memory, as between hosts"
IDLE, CARDS = "On 32 cores with nothing else to do", "Two H200s over NCCL"
OVER_MEMORY = ("one_shot", "two_shot")
# By the ranks and cores that the rows of the table of predictions have.
GROUPS = {
    ("2", "2"): (TWO, ""),
    ("4", "2"): (FOUR, ""),
    ("4, without shared memory", "2"): (APART, ""),
    ("2", "32"): (IDLE, "2 ranks:"),
    ("4", "32"): (IDLE, "4 ranks:"),
}


def measured(title: str, part: str = "") -> dict[tuple[str, int], str]:
    """Cells of a table of times by column and bytes; ``part``: the line before the table."""
    text = section(PAGE, title)
    text = text[text.index(f"{part}\n\n") :] if part else text
    text = text[text.index("|") :].partition("\n\n")[0]
    names = [name.strip() for name in text.splitlines()[0].strip("|").split("|")]
    cells = {}
    for row in table_rows(text):
        number, unit = row[0].split()
        size = int(number) * {"KiB": KIB, "MiB": MIB}[unit]
        cells |= {(name, size): cell for name, cell in zip(names[1:], row[1:], strict=True)}
    return cells


def time(cell: str) -> float:
    return float(cell.split()[0].replace(",", ""))


def errors(cells: dict[tuple[str, int], str]) -> dict[tuple[str, int], float]:
    """Predicted over measured, less one."""
    return {
        key: time(cell.partition(" / ")[2]) / time(cell) - 1
        for key, cell in cells.items()
        if " / " in cell
    }


def three(values: list[float]) -> str:
    """Lowest, median and highest in percent."""
    if not values:
        return ""
    shares = [round(100 * each) for each in (min(values), median(values), max(values))]
    return ", ".join(f"{share:+d} %" if share else "0 %" for share in shares)


def conclusions() -> str:
    return " ".join(section(PAGE, "What this says").split())


@pytest.mark.parametrize(
    ("groups", "saves", "shares"),
    [
        (
            [(TWO, ""), (FOUR, "")],
            "save {} us a call at 16 KiB and four {} us",
            "take {} and {} of",
        ),
        ([(IDLE, "2 ranks:"), (IDLE, "4 ranks:")], "save {} and {} us", "time, and {} and {}."),
    ],
    ids=["2 cores", "32 cores"],
)
def test_what_is_said_beside_the_library_is_of_the_tables(
    groups: list[tuple[str, str]], saves: str, shares: str
) -> None:
    tables = [measured(*group) for group in groups]
    saved = [
        round(time(cells["library", 16 * KIB]) - time(cells["choice", 16 * KIB]))
        for cells in tables
    ]
    assert saves.format(*(f"{each:,}" for each in saved)) in conclusions()
    parts = [time(cells["choice", 64 * MIB]) / time(cells["library", 64 * MIB]) for cells in tables]
    assert shares.format(*(f"{100 * each:.0f} %" for each in parts)) in conclusions()


def test_what_is_said_of_the_butterfly_is_of_the_tables() -> None:
    cells = measured(APART)
    sizes = [KIB, 4 * KIB, 16 * KIB]
    parts = [time(cells["butterfly", size]) / time(cells["library", size]) for size in sizes]
    assert f"takes {100 * min(parts):.0f} to {100 * max(parts):.0f} % of" in conclusions()
    places = {group: crossings(measured(*of)) for group, of in GROUPS.items()}
    assert places["4", "2"] == places["4, without shared memory", "2"] == [(MIB, 4 * MIB)]
    assert places["4", "32"] == [(256 * KIB, MIB)]
    assert all(len(places["2", cores]) > 1 for cores in ("2", "32"))
    assert "between 1 and 4 MiB on four ranks on two cores" in conclusions()
    assert "On 32 cores it is between 256 KiB and 1 MiB. Two ranks have no" in conclusions()


def crossings(cells: dict[tuple[str, int], str]) -> list[tuple[int, int]]:
    """Neighbouring sizes between which the butterfly becomes or ceases to be the fastest."""
    sizes = sorted({size for _, size in cells})
    others = ("halving_doubling", "ring")
    first = [
        time(cells["butterfly", size]) <= min(time(cells[name, size]) for name in others)
        for size in sizes
    ]
    pairs = list(pairwise(sizes))
    return [pair for number, pair in enumerate(pairs) if first[number] != first[number + 1]]


def test_how_much_slower_the_choice_is_is_of_the_tables() -> None:
    def most(group: tuple[str, str], *names: str) -> int:
        cells = measured(*group)
        shown = (cell for (name, _), cell in cells.items() if name in names)
        return max(int(re.findall(r"\(([+-]\d+)%\)", cell)[0]) for cell in shown)

    own, any_order = most((TWO, ""), "choice"), most((TWO, ""), "any order")
    text = " ".join(section(PAGE, TWO).split())
    assert f"at most {own} % behind the best at every size, with any order {any_order} %" in text
    two, four = (most((IDLE, f"{ranks} ranks:"), "choice") for ranks in (2, 4))
    text = " ".join(section(PAGE, IDLE).split())
    assert f"at most {two} % behind the best single one on two ranks and {four} % on four" in text
    said = (
        f"at most {max(own, any_order)} % on two ranks of this machine, {two} % on two and {four}"
    )
    assert said in conclusions()
    assert max(own, any_order, two, four) <= 10
    assert f"two-shot at 16 MiB by {most((FOUR, ''), 'choice', 'any order')} %" in conclusions()


def test_what_is_said_of_predictions_is_of_the_tables() -> None:
    shown = [row for row in table_rows(section(PAGE, "What this says")) if len(row) == 6]
    assert [tuple(row[:2]) for row in shown] == list(GROUPS)
    for row in shown:
        wrong = errors(measured(*GROUPS[row[0], row[1]]))
        memory = [each for (name, _), each in wrong.items() if name in OVER_MEMORY]
        messages = [each for (name, _), each in wrong.items() if name not in OVER_MEMORY]
        low = sum(each < 0 for each in wrong.values())
        assert row[2:] == [str(len(wrong)), str(low), three(messages), three(memory)], row


def test_what_is_said_of_predictions_on_cards_is_of_the_table() -> None:
    wrong = errors(measured(CARDS))
    small = [size for _, size in wrong if size <= MIB]
    assert {round(wrong["library", size] + 1) for size in small} == {4}
    low = [-each for (_, size), each in wrong.items() if size == 64 * MIB]
    assert min(low) > 0
    assert f"low, by {100 * min(low):.0f} to {100 * max(low):.0f} %" in conclusions()


def test_times_that_do_not_grow_are_of_the_tables() -> None:
    two, idle = measured(TWO), measured(IDLE, "2 ranks:")
    library = [two["library", size].split()[0] for size in (KIB, 4 * KIB)]
    assert f"the library's {library[0]} us at 1 KiB and {library[1]} at 4 KiB" in conclusions()
    halving = [idle["halving_doubling", size].split()[0] for size in (256 * KIB, 64 * KIB)]
    said = f"{halving[0]} at 256 KiB on 32 cores after {halving[1]} at 64 KiB"
    assert said in conclusions()
