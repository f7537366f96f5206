"""Layouts of an outer engine's cache: every place is found again, and what is none is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from glmc_runtime.engine.outer.kv_tensors import KVTensors, cache_views
from glmc_runtime.errors import RequestError
from glmc_runtime.format.cache import CacheKey, CacheSpec, CacheTensor

BLOCKS, SIZE, HEADS, DIM, LAYERS = 5, 4, 3, 8, 2
SHAPES = {"blocks": BLOCKS, "tokens": SIZE, "heads": HEADS, "dim": DIM, "slots": BLOCKS * SIZE}
SHAPES |= {"kv": 2, "kv*dim": 2 * DIM}
LAYOUTS = (
    "blocks tokens heads dim",
    "blocks heads tokens dim",
    "kv blocks tokens heads dim",
    "kv blocks heads tokens dim",
    "blocks kv tokens heads dim",
    "blocks kv heads tokens dim",
    "blocks tokens heads kv*dim",
    "blocks heads tokens kv*dim",
    "slots heads dim",
    "kv slots heads dim",
)
EACH_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)


def spec(layout: str = "blocks_tokens_heads", **changes: Any) -> CacheSpec:
    rows = (CacheTensor(name, (HEADS, DIM), "float32", (0, 1)) for name in ("key", "value"))
    return replace(CacheSpec(tuple(rows), SIZE, 16, layout), **changes)


def one(layout: str, dtype: torch.dtype = torch.float32) -> Any:
    """A layer, as one tensor or two."""
    words = layout.split()
    shape = [SHAPES[word] for word in words]
    together = {"kv", "kv*dim"} & set(words)
    tensors = tuple(torch.zeros(shape, dtype=dtype) for _ in range(1 if together else 2))
    return tensors[0] if together else tensors


def kv(layout: str, **changes: Any) -> KVTensors:
    layers = [one(layout) for _ in range(LAYERS)]
    size = SIZE if "slots" in layout else None
    return replace(KVTensors(layers, layout, size), **changes)


def at(tensors: Any, layout: str, name: str, block: int, token: int, head: int) -> torch.Tensor:
    """The numbers of one head, found by the words alone."""
    words, is_value = layout.split(), name == "value"
    together = {"kv", "kv*dim"} & set(words)
    tensor = tensors if together else tensors[is_value]
    places: dict[str, Any] = {"blocks": block, "tokens": token, "heads": head, "kv": int(is_value)}
    places["slots"] = block * SIZE + token
    places["dim"] = slice(None)
    places["kv*dim"] = slice(DIM, None) if is_value else slice(None, DIM)
    return tensor[tuple(places[word] for word in words)]


@EACH_LAYOUT
@pytest.mark.parametrize("heads_first", [False, True])
def test_views_are_the_memory_of_the_engine(layout: str, heads_first: bool) -> None:
    cache = kv(layout)
    ours = "blocks_heads_tokens" if heads_first else "blocks_tokens_heads"
    views = cache_views(cache, spec(ours))
    assert (views.blocks, views.block_size) == (BLOCKS, SIZE)
    assert set(views.tensors) == {CacheKey(n, layer) for n in ("key", "value") for layer in (0, 1)}
    number = 0.0
    for (name, layer), view in views.tensors.items():
        inner = (HEADS, SIZE) if heads_first else (SIZE, HEADS)
        assert view.shape == (BLOCKS, *inner, DIM) and view.stride(-1) == 1
        for block, token, head in ((0, 0, 0), (4, 3, 2), (2, 1, 0), (3, 0, 1)):
            number += 1
            at(cache.layers[layer], layout, name, block, token, head).fill_(number)
            place = (block, head, token) if heads_first else (block, token, head)
            assert view[place].tolist() == [number] * DIM


def test_a_pool_of_slots_has_blocks_of_any_size_and_may_have_a_rest() -> None:
    layers = [(torch.zeros(19, HEADS, DIM), torch.zeros(19, HEADS, DIM)) for _ in range(LAYERS)]
    for size, blocks in ((1, 19), (2, 9), (16, 1)):
        views = cache_views(KVTensors(layers, "slots heads dim", size), spec())
        assert (views.blocks, views.block_size) == (blocks, size)


@pytest.mark.parametrize(
    "layout",
    [
        "",
        "blocks tokens heads",
        "blocks tokens dim",
        "blocks heads dim",
        "blocks slots heads dim",
        "kv blocks tokens heads kv*dim",
        "blocks blocks heads dim",
        "blocks tokens heads dim layers",
    ],
)
def test_words_that_are_no_layout_are_refused(layout: str) -> None:
    with pytest.raises(RequestError, match="no layout"):
        cache_views(KVTensors([], layout), spec())


@pytest.mark.parametrize(
    ("layout", "changes", "text"),
    [
        ("blocks tokens heads dim", {"layers": [one(LAYOUTS[0])]}, "number of layers"),
        ("kv blocks tokens heads dim", {"layers": [one(LAYOUTS[0])] * 2}, "number of tensors"),
        ("blocks tokens heads dim", {"layers": [one(LAYOUTS[2])] * 2}, "number of tensors"),
        ("kv blocks tokens heads dim", {"layers": [one(LAYOUTS[4])] * 2}, "dimensions of its"),
        ("blocks heads tokens dim", {"layers": [one(LAYOUTS[0])] * 2}, "another than the artifact"),
        (
            "blocks tokens heads dim",
            {"layers": [one(LAYOUTS[0], torch.bfloat16)] * 2},
            "another than the artifact",
        ),
        ("slots heads dim", {"block_size": None}, "how many are a block"),
        ("blocks tokens heads dim", {"scratch_block": BLOCKS}, "scratch block"),
        ("blocks tokens heads dim", {"scratch_block": -1}, "scratch block"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    layout: str, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(RequestError, match=text):
        cache_views(replace(kv(layout), **changes), spec())


def test_layers_differ_in_nothing() -> None:
    short = tuple(torch.zeros(BLOCKS - 1, SIZE, HEADS, DIM) for _ in range(2))
    with pytest.raises(RequestError, match="differ in blocks"):
        cache_views(KVTensors([one(LAYOUTS[0]), short], LAYOUTS[0]), spec())


def test_heads_with_gaps_and_other_caches_are_refused() -> None:
    wide = [tuple(torch.zeros(BLOCKS, SIZE, HEADS, DIM, 2).unbind(-1)) for _ in range(LAYERS)]
    with pytest.raises(RequestError, match="another than the artifact") as caught:
        cache_views(KVTensors(wide, LAYOUTS[0]), spec())  # type: ignore[arg-type]
    assert "2 apart" in caught.value.found
    latent = CacheTensor("latent", (576,), "float32", (0, 1))
    with pytest.raises(RequestError, match="other tensors than keys and values"):
        cache_views(kv(LAYOUTS[0]), spec(tensors=(latent,)))


def _shared() -> list[Any]:
    layer = torch.zeros(2, BLOCKS, SIZE, HEADS, DIM)
    return [layer, layer]


def _one_for_both() -> list[Any]:
    return [(keys, keys) for keys in (one("blocks tokens heads dim")[0] for _ in range(LAYERS))]


def _expanded() -> list[Any]:
    shape = (2, BLOCKS, SIZE, HEADS, DIM)
    return [torch.zeros(2, 1, SIZE, HEADS, DIM).expand(shape) for _ in range(LAYERS)]


@pytest.mark.parametrize(
    ("layers", "layout"),
    [
        (_shared, "kv blocks tokens heads dim"),
        (_one_for_both, "blocks tokens heads dim"),
        (_expanded, "kv blocks tokens heads dim"),
    ],
)
def test_memory_that_is_shared_is_refused(layers: Any, layout: str) -> None:
    with pytest.raises(RequestError, match="share memory"):
        cache_views(KVTensors(layers(), layout), spec())


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        ("slots heads dim", {"block_size": 0}),
        ("slots heads dim", {"block_size": -4}),
        ("slots heads dim", {"block_size": "4"}),
        ("blocks tokens heads dim", {"block_size": SIZE * 2}),
        ("blocks tokens heads dim", {"scratch_block": "0"}),
        ("blocks tokens heads dim", {"layers": None}),
        ("blocks tokens heads dim", {"layers": [3, 4]}),
        ("blocks tokens heads dim", {"layers": [(None, None), (None, None)]}),
        ("blocks tokens heads dim", {"layout": None}),
        ("blocks heads tokens kv*dim", {"layers": [torch.zeros(5, 3, 4, 1)] * 2}),
        ("kv blocks tokens heads dim", {"layers": [torch.zeros(2, 5, 0, 3, 8)] * 2}),
    ],
)
def test_what_is_no_memory_is_refused_by_name(layout: str, changes: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        cache_views(replace(kv(layout), **changes), spec())
