"""Streaming a recipe gives the same bytes as evaluating it whole, in bounded pieces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glmc.errors import CheckpointError, PackError
from glmc.ir.recipe import Concatenate, Constant, Recipe, RopeTable, Source, Stack, Weight
from glmc.presets.catalog import load_config
from glmc.weights.checkpoint import Checkpoint, open_checkpoint
from glmc.weights.evaluate import evaluate
from glmc.weights.flat import recipe_shape
from glmc.weights.stream import stream_weight
from tests.support.checkpoints import tiny_checkpoint

LAYER = "model.layers.1."
QKV = Concatenate(
    (
        Source(LAYER + "self_attn.q_proj.weight", (64, 32)),
        Source(LAYER + "self_attn.k_proj.weight", (32, 32)),
        Source(LAYER + "self_attn.v_proj.weight", (32, 32)),
    )
)
EXPERTS = Source(LAYER + "mlp.experts.gate_up_proj", (6, 48, 32))
SHARED = Concatenate(
    (
        Source(LAYER + "mlp.shared_experts.gate_proj.weight", (24, 32)),
        Source(LAYER + "mlp.shared_experts.up_proj.weight", (24, 32)),
    )
)
FREQUENCIES = tuple(1e6 ** (-2 * i / 16) for i in range(8))


class Memory:
    """A source of tensors in memory that remembers the largest piece it was asked for."""

    description = "tensors of a test"

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors
        self.largest = 0

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def read(self, name: str, begin: int, count: int) -> Tensor:
        self.largest = max(self.largest, count)
        return self.tensors[name].flatten()[begin : begin + count].clone()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    directory = tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    return open_checkpoint(directory, load_config(directory).fields)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    "recipe",
    [
        QKV,
        EXPERTS,
        SHARED,
        Stack((QKV, QKV)),
        Concatenate((Stack((SHARED, SHARED)), EXPERTS)),
        RopeTable(FREQUENCIES, 1000, 1.25),
        Constant(FREQUENCIES),
    ],
    ids=["qkv", "experts", "shared", "stack", "nested", "rope", "constant"],
)
def test_same_bytes_as_whole(checkpoint: Checkpoint, recipe: Recipe, dtype: torch.dtype) -> None:
    def read(name: str) -> Tensor:
        shape = checkpoint.shape(name)
        return checkpoint.read(name, 0, torch.Size(shape).numel()).view(shape)

    weight = Weight("packed", recipe_shape(recipe), dtype, recipe)
    whole = evaluate(weight, read)
    for chunk_bytes in (100, 4096, 1 << 26):
        pieces = list(stream_weight(weight, checkpoint, chunk_bytes))
        assert all(piece.dtype is dtype and piece.dim() == 1 for piece in pieces)
        assert torch.equal(torch.cat(pieces).view(weight.shape), whole)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_piece_is_over_the_bound(stored: torch.dtype, dtype: torch.dtype) -> None:
    source = Memory(a=torch.randn(100, 64).to(stored), b=torch.randn(31, 64).to(stored))
    recipe = Concatenate((Source("a", (100, 64)), Source("b", (31, 64))))
    weight = Weight("w", (131, 64), dtype, recipe)
    pieces = list(stream_weight(weight, source, 1000))
    assert max(piece.numel() * piece.itemsize for piece in pieces) <= 1000
    assert source.largest * stored.itemsize <= 1000
    table = Weight("t", (999, 16), dtype, RopeTable(FREQUENCIES, 999, 1.0))
    assert max(piece.numel() * 4 for piece in stream_weight(table, source, 1000)) <= 1000


def test_constant_takes_the_shape_of_its_weight() -> None:
    weight = Weight("c", (2, 1, 2), torch.float32, Constant((1.0, 2.0, 3.0, 4.0)))
    (piece,) = stream_weight(weight, Memory())
    assert piece.tolist() == [1.0, 2.0, 3.0, 4.0]
    scalar = Weight("s", (), torch.float32, Constant((0.5,)))
    assert next(stream_weight(scalar, Memory())).tolist() == [0.5]


def test_wrong_recipes() -> None:
    a, b = Source("a", (2, 3)), Source("b", (2, 4))
    for recipe in (Concatenate((a, b)), Stack((a, b)), Concatenate(()), Stack(())):
        with pytest.raises(PackError, match="do not fit"):
            recipe_shape(recipe)
    with pytest.raises(PackError, match="different shapes"):
        list(stream_weight(Weight("w", (3, 2), torch.float32, a), Memory()))
    with pytest.raises(PackError, match="different shapes"):
        list(stream_weight(Weight("w", (3,), torch.float32, Constant((1.0,))), Memory()))


def test_another_shape_in_the_source() -> None:
    weight = Weight("w", (2, 3), torch.float32, Source("a", (2, 3)))
    with pytest.raises(CheckpointError, match=r"tensors of a test[\s\S]*\[3, 2\]"):
        list(stream_weight(weight, Memory(a=torch.zeros(3, 2))))


def test_overflow_of_float16_is_refused() -> None:
    weight = Weight("w", (3,), torch.float16, Source("a", (3,)))
    with pytest.raises(CheckpointError, match="70000"):
        list(stream_weight(weight, Memory(a=torch.tensor([1.0, -7e4, 2.0]))))
    # What is infinite already is not ours to refuse.
    (piece,) = stream_weight(weight, Memory(a=torch.tensor([1.0, float("inf"), 65504.0])))
    assert piece.tolist() == [1.0, float("inf"), 65504.0]
