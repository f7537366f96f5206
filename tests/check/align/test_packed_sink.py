"""Sequences of several lengths as one record."""

from __future__ import annotations

import pytest
import torch

from glmc.check.align.packed_sink import PackedSink, ShapeSink
from glmc_runtime.format.tensor_key import TensorKey
from tests.check.align.conftest import ListSink

KEY = TensorKey("a", "Linear", 0, "forward_output", "0")
OTHER = TensorKey("b", "Linear", 0, "forward_output", "0")
WEIGHT = TensorKey("a", "Linear", 0, "forward_params", "weight")


def packed(sink: ListSink, *shape: int, step: int = 0) -> PackedSink:
    """Of lengths 4 and 2, where a prompt of three tokens had a tensor of this shape."""
    return PackedSink(sink, (4, 2), {(step, KEY): shape, (step, OTHER): shape}, 3)


@pytest.mark.parametrize("shape", [(-1, 4), (1, -1, 4, 2), (1, 4, -1, 2), (1, -1)])
def test_rows_follow_each_other_along_the_tokens(sink: ListSink, shape: tuple[int, ...]) -> None:
    """Also where another dimension is as long."""
    probed, first, second = (
        tuple(length if size < 0 else size for size in shape) for length in (3, 4, 2)
    )
    packer = packed(sink, *probed)
    packer.begin(0, (4, 2))
    parts = [torch.randn(first), torch.randn(second)]
    for packer.sequence, part in enumerate(parts):
        packer.write([KEY], part, {})
    assert torch.equal(sink.get(0, str(KEY)), torch.cat(parts, shape.index(-1)))
    assert not packer.left_out


@pytest.mark.parametrize(
    ("probed", "shape"),
    [((3, 3), (4, 4)), ((5, 4), (5, 4)), ((2, 4), (3, 4)), ((3, 4), (4, 4, 1)), ((), ())],
)
def test_what_has_no_axis_of_tokens_is_left_out(
    sink: ListSink, probed: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    packer = packed(sink, *probed)
    packer.begin(0, (4, 2))
    packer.write([KEY], torch.ones(shape), {})
    packer.link(OTHER, 0, KEY)
    assert list(packer.left_out) == [str(KEY), str(OTHER)] and not sink.tensors


def test_a_token_of_each_is_a_row_of_a_batch(sink: ListSink) -> None:
    sink.begin(0, (4, 2))
    packer = packed(sink, 1, 1, 4, step=1)
    packer.begin(1, (1, 1))
    for packer.sequence in range(2):
        packer.write([KEY], torch.full((1, 1, 4), float(packer.sequence)), {})
        packer.write([OTHER], torch.ones(1, 5, 4), {})  # it grows with the context
    assert sink.get(1, str(KEY)).shape == (2, 1, 4)
    assert list(packer.left_out) == [str(OTHER)]


def test_weights_are_those_of_all(sink: ListSink) -> None:
    packer = packed(sink, 3, 4)
    packer.begin(0, (4, 2))
    for packer.sequence in range(2):
        packer.write([WEIGHT], torch.ones(2), {})
    assert sink.get(0, str(WEIGHT)).shape == (2,) and not packer.left_out


def test_shapes_are_kept_and_nothing_else() -> None:
    shapes = ShapeSink()
    shapes.begin(1, (1,))
    shapes.write([KEY, OTHER], torch.ones(3, 4), {})
    assert shapes.shapes == {(1, KEY): (3, 4), (1, OTHER): (3, 4)}
