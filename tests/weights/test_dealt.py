"""Weights dealt to ranks in one pass have the bytes that each rank's recipe makes at once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glmc.artifact.packing import Packer, Tally, shard_name
from glmc.errors import CheckpointError, InternalError, PackError
from glmc.ir.layout import Layout, Section, even
from glmc.ir.recipe import (
    ByRank,
    Concatenate,
    Constant,
    Dealt,
    First,
    Recipe,
    RopeTable,
    Selected,
    Source,
    Stack,
    Weight,
    on_rank,
)
from glmc.weights.evaluate import evaluate
from glmc.weights.flat import FlatReader, load, recipe_shape
from glmc.weights.safetensors_header import FileTensor, read_header
from glmc.weights.safetensors_writer import TensorSpec, plan_shards
from glmc.weights.source import FileRange, WeightSource
from glmc.weights.stream import deal_weight, stream_weight
from tests.support.thinned import crossed
from tests.weights.test_stream import FREQUENCIES, Memory

RANKS = range(1, 9)
DTYPES = (torch.bfloat16, torch.float32)
SHAPES = {"a": (6, 4), "b": (6, 4), "c": (10, 4), "e": (3, 6, 4), "f": (3, 6, 4)}
A, B, C, E, F = (Source(name, shape) for name, shape in SHAPES.items())


class Stored:
    """A source of safetensors files that counts how often each byte is read."""

    description = "files of a test"

    def __init__(self, path: Path, tensors: dict[str, Tensor]) -> None:
        save_file(tensors, path)
        self.tensors: dict[str, FileTensor] = read_header(path)
        self.read_bytes: Counter[int] = Counter()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def read(self, name: str, begin: int, count: int) -> Tensor:
        (part,) = self.ranges(name, begin, count)
        result = torch.empty(count, dtype=part.dtype)
        load(part, result)
        return result

    def ranges(self, name: str, begin: int, count: int) -> list[FileRange]:
        part = self.tensors[name].range(begin, count)
        self.read_bytes.update(range(part.begin, part.begin + part.size))
        return [part]


def values(dtype: torch.dtype) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=draw).to(dtype) for name, shape in SHAPES.items()}


def layouts(size: int, ranks: int) -> Iterator[Layout]:
    """Even and with zeros, in sections, in units that are cut, and repeated as KV heads are."""
    yield even(size, ranks)
    if size % 2 == 0:
        yield even(size, ranks, 2)
        yield Layout((Section(size // 2, 2, parts=2),), ranks)
        yield Layout((Section(size // 2, 2, repeated=True),), ranks)
        yield Layout((Section(size // 2), Section(size // 2)), ranks)
        yield Layout((Section(1, size // 2, parts=2), Section(size // 2, repeated=True)), ranks)


def recipes(ranks: int) -> Iterator[Recipe]:
    """Each kind of recipe over each layout and axis."""
    inside: tuple[Recipe, ...] = (
        A,
        E,
        Concatenate((A, C, B)),
        Stack((A, B)),
        Stack((E, F)),
        Concatenate((E, Stack((A, B)))),
        Selected(Concatenate((A, C)), 0, Layout((Section(16),), 2).runs(1)),
        RopeTable(FREQUENCIES, 5, 1.25),
    )
    for recipe in inside:
        shape = recipe_shape(recipe)
        yield First(recipe, shape)
        for axis, size in enumerate(shape):
            yield from (Dealt(recipe, axis, layout) for layout in layouts(size, ranks))
    yield ByRank(tuple(range(5, 5 + ranks)))
    yield Concatenate((Dealt(A, 0, even(6, ranks)), B, Dealt(C, 0, even(10, ranks))))
    yield Stack((Dealt(A, 1, even(4, ranks)), Dealt(B, 1, even(4, ranks))))
    yield Dealt(Concatenate((Dealt(A, 0, even(6, ranks)), B)), 1, even(4, ranks))
    yield First(Dealt(A, 0, even(6, ranks)), recipe_shape(Dealt(A, 0, even(6, ranks))))
    yield Concatenate((A, First(B, (6, 4))))


def dealt(weight: Weight, source: WeightSource, chunk: int, ranks: int) -> list[Tensor]:
    """The weight of each rank, of pieces that are all within the bound."""
    parts: list[list[Tensor]] = [[] for _ in range(ranks)]
    for rank, data in deal_weight(weight, source, chunk, ranks):
        assert data.dtype is weight.dtype
        assert len(data) * weight.dtype.itemsize <= max(chunk, weight.dtype.itemsize * 16)
        tensor = torch.empty(len(data), dtype=weight.dtype)
        load(data, tensor)
        for each in range(ranks) if rank is None else (rank,):
            parts[each].append(tensor)
    empty = torch.empty(0, dtype=weight.dtype)
    return [torch.cat([empty, *each]).view(weight.shape) for each in parts]


# Ranks of both parities in each dtype.
QUICK = [(ranks, DTYPES[ranks in (2, 5)]) for ranks in (1, 2, 3, 4, 5, 8)]


@pytest.mark.parametrize(
    ("ranks", "dtype"),
    crossed(
        RANKS,
        DTYPES,
        quick=QUICK,
        long=[each for each in product(RANKS, DTYPES) if each not in QUICK],
    ),
)
def test_each_rank_has_what_its_recipe_makes(
    tmp_path: Path, ranks: int, dtype: torch.dtype
) -> None:
    tensors = values(torch.bfloat16)
    sources = (Stored(tmp_path / "a.safetensors", tensors), Memory(**tensors))
    draw = random.Random(ranks)
    for recipe in recipes(ranks):
        weight = Weight("w", recipe_shape(recipe), dtype, recipe)
        expected = [evaluate(weight.on(rank), tensors.__getitem__) for rank in range(ranks)]
        for source in sources:
            chunk = draw.choice((2, 24, 100, 1 << 20))
            found = dealt(weight, source, chunk, ranks)
            assert all(map(torch.equal, found, expected)), (recipe, chunk, source)


@pytest.mark.parametrize("ranks", [2, 5])
def test_any_stretch_of_a_rank(ranks: int) -> None:
    tensors, draw = values(torch.float32), random.Random(2)
    for recipe in recipes(ranks):
        for rank in range(ranks):
            mine = on_rank(recipe, rank)
            whole = evaluate(
                Weight("w", recipe_shape(recipe), torch.float32, mine), tensors.__getitem__
            ).flatten()
            begin, end = sorted(draw.randint(0, len(whole)) for _ in range(2))
            reader = FlatReader("w", torch.float32, Memory(**tensors), draw.choice((4, 60, 9999)))
            assert torch.equal(reader.tensor(mine, begin, end - begin), whole[begin:end])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("chunk", [48, 96, 1 << 20])
def test_each_byte_is_read_once(tmp_path: Path, axis: int, chunk: int) -> None:
    """Columns of rows that fit into memory, and rows whatever their size."""
    source = Stored(tmp_path / "a.safetensors", values(torch.bfloat16))
    recipe = Dealt(E, axis, even(E.shape[axis], 2))
    list(deal_weight(Weight("w", recipe_shape(recipe), torch.bfloat16, recipe), source, chunk, 2))
    assert set(source.read_bytes.values()) == {1}
    assert len(source.read_bytes) == 2 * torch.Size(E.shape).numel()


def test_what_all_ranks_have_is_read_once() -> None:
    weight = Weight("w", (6, 4), torch.float32, A)
    assert [rank for rank, _ in deal_weight(weight, Memory(**values(torch.float32)), 48, 8)] == [
        None,
        None,
    ]


def test_overflow_of_a_rank_is_refused() -> None:
    source = Memory(a=torch.full((2, 2), 7e4))
    recipe = Dealt(Source("a", (2, 2)), 1, even(2, 2))
    with pytest.raises(CheckpointError, match="70000"):
        list(deal_weight(Weight("w", (2, 1), torch.float16, recipe), source, 99, 2))


def test_recipes_of_another_number_of_ranks() -> None:
    for recipe in (Dealt(A, 0, even(6, 2)), ByRank((1, 2)), Stack((Dealt(A, 0, even(6, 2)),))):
        weight = Weight("w", recipe_shape(recipe), torch.float32, recipe)
        with pytest.raises(InternalError, match="another number"):
            list(deal_weight(weight, Memory(**values(torch.float32)), 48, 4))
        with pytest.raises(InternalError):
            list(stream_weight(weight, Memory(**values(torch.float32))))
    with pytest.raises(PackError, match="different shapes"):
        recipe = Dealt(A, 0, even(6, 2))
        list(deal_weight(Weight("w", (6, 4), torch.float32, recipe), Memory(), 48, 2))


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("shard_bytes", [60, 1 << 20])
def test_files_of_all_ranks(tmp_path: Path, ranks: int, shard_bytes: int) -> None:
    tensors = values(torch.bfloat16)
    source = Stored(tmp_path / "a.safetensors", tensors)
    made: dict[str, Recipe] = {
        "rows": Dealt(C, 0, even(10, ranks)),
        "columns": Dealt(A, 1, even(4, ranks)),
        "both": B,
        "first": ByRank(tuple(range(ranks))),
        "constant": Constant((1.0, 2.0)),
    }
    weights = [
        Weight(name, recipe_shape(each), torch.bfloat16, each) for name, each in made.items()
    ]
    shards = plan_shards(
        [TensorSpec(each.name, each.dtype, each.shape) for each in weights], shard_bytes
    )
    done: list[int] = []
    tally = Tally(weights, ranks, lambda progress: done.append(progress.done))
    entries = Packer(weights, source, ranks, 40, tally).write(tmp_path, shards)
    assert len(entries) == ranks * len(shards)
    for rank in range(ranks):
        found: dict[str, Tensor] = {}
        for number in range(1, len(shards) + 1):
            found |= load_file(tmp_path / shard_name(number, len(shards), rank, ranks))
        assert set(found) == set(made)
        for weight in weights:
            expected = evaluate(weight.on(rank), tensors.__getitem__)
            assert torch.equal(found[weight.name], expected)
    assert done[-1] == tally.at.total == ranks * sum(weight.bytes for weight in weights)
