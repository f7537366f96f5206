"""What is tuned of the experts, and the choices of experts that it is tuned with."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from tuning.tunables_moe import SHAPES, TOP_K, experts_read, spread_ids, tunables


def test_experts_of_many_tokens_have_different_numbers_of_them() -> None:
    ids = spread_ids(256, 128, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert all(len(set(row)) == TOP_K for row in ids.tolist())
    counts = torch.bincount(ids.flatten(), minlength=128)
    assert counts.min() < 12 and counts.max() > 20


@pytest.mark.parametrize("tokens", [1, 4, 32, 256])
def test_what_is_read_is_what_the_ids_have(tokens: int) -> None:
    generator = torch.Generator().manual_seed(3)
    drawn = [spread_ids(tokens, 128, torch.device("cpu"), generator) for _ in range(20)]
    distinct = sum(len(ids.unique()) for ids in drawn) / len(drawn)
    assert experts_read(tokens, 128) == pytest.approx(distinct, rel=0.03)


def test_every_shape_has_its_key_and_candidates_at_each_number_of_tokens() -> None:
    found = {(each.key, each.rows): each for each in tunables() if each.kernel == "moe_ffn"}
    for shape in SHAPES:
        key = f"{shape.experts}x{shape.width}x{shape.hidden}k{TOP_K}"
        candidates = list(found[key, 256].candidates())
        tiles = {each["rows"] for each in candidates if each["variant"] == "sorted_tiles"}
        assert tiles >= {16, 32, 64}
        assert len({str(each) for each in candidates}) >= 40
