"""Which rows of a tensor a record stores."""

from __future__ import annotations

import pytest

from glmc_runtime.errors import RequestError
from glmc_runtime.record.keep import Keep, ends_of, rows_of


def test_what_can_be_kept() -> None:
    assert Keep.parse("all") == Keep()
    assert Keep.parse("rows:12") == Keep("rows", 12)
    assert Keep.parse("statistics") == Keep("statistics")


@pytest.mark.parametrize("text", ["", "rows", "rows:", "rows:0", "rows:-1", "rows:x", "everything"])
def test_what_nothing_can_be_kept_of_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--keep"):
        Keep.parse(text)


def test_rows_are_evenly_spaced_with_both_ends() -> None:
    assert Keep("rows", 3).chosen((1, 101, 8), ()) == (0, 50, 100)
    assert Keep("rows", 1).chosen((5, 8), ()) == (4,)


def test_rows_follow_from_their_number_alone() -> None:
    """So a batch of Hugging Face and packed rows choose the same ones."""
    keep = Keep("rows", 4)
    assert keep.chosen((2, 9, 8), (9, 9)) == keep.chosen((18, 8), (9, 9))


def test_the_last_row_of_each_sequence_is_kept() -> None:
    assert Keep("rows", 2).chosen((1, 9, 8), (2, 3, 4)) == (0, 1, 4, 8)


def test_few_rows_are_kept_whole() -> None:
    assert Keep("rows", 5).chosen((5, 8), ()) is None
    assert Keep("rows", 2).chosen((3, 8), (1, 1, 1)) is None
    assert Keep("rows", 1).chosen((7,), ()) is None
    assert Keep().chosen((500, 8), ()) is None


def test_rows_and_ends() -> None:
    assert rows_of(()) == rows_of((7,)) == 1
    assert rows_of((2, 3, 4)) == 6
    assert ends_of((2, 3)) == [1, 4]
