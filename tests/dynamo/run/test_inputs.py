"""What a call notes of its inputs and weights, and what is left when a call fails midway."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glmc.dynamo.compile.normal_form import Placeholder
from glmc.dynamo.run.inputs import Inputs
from glmc.dynamo.run.weights import LiveWeights
from glmc.ir.recipe import Concatenate, Source, Weight

CPU = torch.device("cpu")
LARGE = 1 << 14  # bytes are four times that: read where it is


def placeholders(**kinds: str) -> list[Placeholder]:
    node: Any = None
    return [Placeholder(name, kind, node) for name, kind in kinds.items()]


def inputs() -> Inputs:
    """A cache that is written and a small tensor that is read."""
    return Inputs(placeholders(cache="input", ids="input"), frozenset({"cache"}), CPU)


def test_what_lies_where_it_lay_is_not_looked_at_again() -> None:
    taken, cache = inputs(), torch.zeros(8)
    assert set(taken.take([cache, torch.tensor([1])])) == {"cache", "ids"}
    assert taken.take([cache, torch.tensor([2])]) == []
    assert taken.tensors["cache"] is cache and taken.tensors["ids"].tolist() == [2]
    other = torch.zeros(8)
    assert taken.take([other, torch.tensor([2])]) == ["cache"]
    assert taken.tensors["cache"] is other
    assert taken.take([other.view(2, 4), torch.tensor([2])]) == ["cache"], "another shape"
    assert taken.take([other.view(4, 2).t(), torch.tensor([2])]) == ["cache"], "other strides"


def test_a_large_input_that_is_only_read_stays_where_it_is() -> None:
    taken, cache = inputs(), torch.zeros(8)
    small, large = torch.zeros(4), torch.zeros(LARGE)
    taken.take([cache, small])
    assert taken.tensors["ids"] is not small
    assert taken.take([cache, large]) == ["ids"] and taken.tensors["ids"] is large
    assert taken.take([cache, large]) == []
    assert taken.take([cache, small]) == ["ids"] and taken.tensors["ids"] is not large


def test_a_part_of_what_is_written_is_not_copied() -> None:
    taken, cache = inputs(), torch.zeros(8)
    taken.take([cache, cache[2:4]])
    assert taken.tensors["ids"].data_ptr() == cache[2:].data_ptr()
    assert taken.overlap([cache, cache[2:4]])
    apart = torch.zeros(2)
    assert taken.take([cache, apart]) == ["ids"]
    assert not taken.overlap([cache, apart])


def test_a_call_that_fails_midway_leaves_nothing_behind() -> None:
    """The caller comes back with the tensors of before."""
    taken, ids = inputs(), torch.tensor([1])
    first, second = torch.zeros(8), torch.ones(8)
    for _ in range(2):
        taken.take([first, ids])
    bad: Any = torch.zeros(1, device="meta").expand(1)
    with pytest.raises((RuntimeError, NotImplementedError)):
        taken.take([second, bad])
    assert "cache" in taken.take([first, ids])
    assert taken.tensors["cache"] is first
    assert taken.take([first, ids]) == []


def weights() -> LiveWeights:
    recipe = Concatenate((Source("a", (2, 2)), Source("b", (2, 2))))
    both = Weight("both", (4, 2), torch.float32, recipe)
    return LiveWeights({"both": both}, placeholders(a="weight", b="weight"), {})


def test_weights_that_could_not_be_made_are_made_by_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live, a, b = weights(), torch.zeros(2, 2), torch.ones(2, 2)
    assert live.refresh([a, b]) and not live.refresh([a, b])
    a.fill_(5.0)

    def refuse(weight: Weight, marks: Any) -> Tensor:
        raise RuntimeError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(live, "_make", refuse)
        with pytest.raises(RuntimeError, match="not now"):
            live.refresh([a, b])
    assert live.refresh([a, b])
    assert torch.equal(live.tensors["both"], torch.cat((a, b)))
    assert not live.refresh([a, b])


def test_weights_made_in_inference_mode_are_known_by_their_place() -> None:
    live, b = weights(), torch.ones(2, 2)
    with torch.inference_mode():
        a, other = torch.zeros(2, 2), torch.ones(2, 2)
    assert live.refresh([a, b]) and not live.refresh([a, b])
    assert live.refresh([other, b]) and not live.refresh([other, b])
    b.fill_(3.0)
    assert live.refresh([other, b])
