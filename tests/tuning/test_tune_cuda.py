"""How configurations are joined; the times themselves need a device."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from tuning.tune_cuda import Measured, merged

BASE = {"variant": "sorted_tiles", "rows": 32, "up_n": 64, "up_k": 64, "down_n": 64}


def test_the_fastest_change_of_each_launch_goes_together() -> None:
    times = [
        Measured(BASE, 10.0),
        Measured({**BASE, "up_n": 32}, 9.0),
        Measured({**BASE, "up_n": 16, "up_k": 128}, 8.0),
        Measured({**BASE, "down_n": 128}, 9.5),
        Measured({**BASE, "down_n": 256}, 11.0),
    ]
    assert list(merged(times)) == [{**BASE, "up_n": 16, "up_k": 128, "down_n": 128}]


def test_what_is_slower_or_differs_in_both_launches_or_elsewhere_is_not_joined() -> None:
    times = [
        Measured(BASE, 10.0),
        Measured({**BASE, "up_n": 32}, 9.0),
        Measured({**BASE, "down_n": 128}, 10.5),
        Measured({**BASE, "rows": 16}, 7.0),
        Measured({**BASE, "up_n": 16, "down_n": 16}, 5.0),
    ]
    assert list(merged(times)) == []


def test_what_was_measured_is_not_yielded_again() -> None:
    together = {**BASE, "up_n": 32, "down_n": 128}
    times = [
        Measured(BASE, 10.0),
        Measured({**BASE, "up_n": 32}, 9.0),
        Measured({**BASE, "down_n": 128}, 9.5),
        Measured(together, 8.0),
    ]
    assert list(merged(times)) == []
