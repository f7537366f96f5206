"""Every amount in one form."""

from __future__ import annotations

import pytest

from glmc_runtime.command.units import bytes_text, count_text, seconds_text, share_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (bytes_text(0), "0 B"),
        (bytes_text(1536), "1.5 KiB"),
        (bytes_text(657.3 * 2**30), "657.3 GiB"),
        (bytes_text(2**41), "2.0 TiB"),
        (count_text(999_999), "999,999"),
        (count_text(1_438_000), "1.4 M"),
        (count_text(352_800_000_000), "352.8 B"),
        (seconds_text(0.012), "12 ms"),
        (seconds_text(31.726), "31.7 s"),
        (seconds_text(312), "5 min 12 s"),
        (seconds_text(7384), "2 h 3 min"),
        (share_text(0), "0%"),
        (share_text(0.0001), "less than 0.1%"),
        (share_text(0.004), "0.4%"),
        (share_text(0.083), "8%"),
        (share_text(1.2), "120%"),
    ],
)
def test_amounts(text: str, expected: str) -> None:
    assert text == expected
