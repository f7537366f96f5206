"""Which products are tuned: those of every preset."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from tuning.tunables_dense import ROWS, preset_shapes, tunables


def test_every_preset_has_its_products_and_the_first_one_comes_first() -> None:
    plain, gated = preset_shapes()
    assert plain[:3] == [(4608, 4096), (4096, 4096), (4096, 13696)]
    assert {(8192, 6144), (6144, 23040), (14336, 5120), (5120, 12288), (151552, 5120)} <= {*plain}
    assert {(27392, 4096), (46080, 6144), (24576, 5120), (21888, 4096)} <= {*gated}


def test_of_several_cards_each_has_its_share() -> None:
    plain, gated = preset_shapes(4)
    # Two kv heads of the 9B for four ranks: each has one, beside eight query heads.
    assert plain[:3] == [(1280, 4096), (4096, 1024), (4096, 3424)]
    assert gated[0] == (6848, 4096)
    assert (37888, 4096) in plain
    both = {(each.kernel, each.key) for each in tunables((1, 4))}
    assert {("linear", "4608x4096"), ("linear", "1280x4096")} <= both


def test_each_is_tuned_once_at_each_number_of_rows() -> None:
    found = [(each.kernel, each.key, each.rows) for each in tunables()]
    plain, gated = preset_shapes()
    assert len(set(found)) == len(found) == len(ROWS) * (len(plain) + len(gated))
