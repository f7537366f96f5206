"""A toy outer engine over its own cache gives the tokens of our engine: layouts, block sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc_runtime import KVTensors, Model, OuterStep
from glmc_runtime.engine.outer import model as outer_model
from glmc_runtime.engine.outer.model import AttachedModel
from glmc_runtime.errors import RequestError
from glmc_runtime.generate.session import Session
from glmc_runtime.replay.step import ScheduledTokens
from tests.e2e.build import CPU, PLACES, Builder, Place, generated
from tests.runtime.engine.outer.steps import outer_step
from tests.runtime.engine.outer.toy_engine import ToyEngine
from tests.support.thinned import crossed

pytestmark = pytest.mark.usefixtures("shared_captures")
MODEL = Path(__file__).parents[2] / "models" / "tiny-moe"
OPTIONS = {"prefill_buckets": (4, 16, 32), "decode_buckets": (1, 4, 8), "max_context": 256}
PREFIX = [(7 * n) % 500 + 20 for n in range(140)]
PROMPTS = [
    [(13 * n) % 450 + 25 for n in range(124)],
    [(11 * n) % 400 + 30 for n in range(125)],
    [*PREFIX, 40, 50, 60],
    [33] * 3 + [44] * 15,
    [*PREFIX, 41, 51],
    [*PREFIX[:100], 9],
]
"""The first two go on beyond a block of every size, and there are no blocks for both."""
TOKENS = 12
SIZES = (16, 32, 64, 128)
LAYOUTS = {
    "two tensors": "blocks tokens heads dim",
    "two tensors, heads first": "blocks heads tokens dim",
    "one tensor": "kv blocks tokens heads dim",
    "one tensor, heads first": "kv blocks heads tokens dim",
    "by block": "blocks kv tokens heads dim",
    "by block, heads first": "blocks kv heads tokens dim",
    "value after key": "blocks heads tokens kv*dim",
}
PACKED = ("two tensors, heads first", "one tensor, heads first")
"""What the vendor's kernels take."""


class Compiled:
    """An artifact, loaded without a cache, and the tokens that our own engine gives."""

    def __init__(self, builder: Builder, place: Place) -> None:
        path = builder.artifact(place, "float32", **OPTIONS)
        emulate = True if place.target == "xpu" else None
        session: Session = glmc_runtime.load(path, emulate=emulate, kv_blocks=64)
        self.expected = generated(session, PROMPTS, TOKENS)
        self.model: Model = glmc_runtime.load_model(path, emulate=emulate)
        assert self.model.emulated is (place.target == "xpu")


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(MODEL, tmp_path_factory.mktemp("outer"))


@pytest.fixture(scope="module")
def cpu(builder: Builder) -> Compiled:
    return Compiled(builder, CPU)


# All profiles but the first have its layouts and refusals, from calls of their own.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param(place, id=place.name, marks=() if place == PLACES[1] else pytest.mark.long)
        for place in PLACES[1:]
    ],
)
def emulated(request: pytest.FixtureRequest, builder: Builder) -> Compiled:
    return Compiled(builder, request.param)


@pytest.fixture(scope="module")
def cuda(builder: Builder) -> Compiled:
    return Compiled(builder, Place("cuda", None))


def tensors(model: Model, layout: str, blocks: int, size: int) -> KVTensors:
    """A cache of zeros; padded rows write to its last block."""
    rows = model.manifest.cache.tensors
    heads, dim = rows[0].shape
    layers = sum(len(row.layers) for row in rows if row.name == "key")
    known = {"blocks": blocks, "tokens": size, "heads": heads, "dim": dim, "slots": blocks * size}
    known |= {"kv": 2, "kv*dim": 2 * dim}
    shape = [known[word] for word in layout.split()]
    both = bool({"kv", "kv*dim"} & set(layout.split()))
    made: list[Any] = []
    for _ in range(layers):
        parts = tuple(torch.zeros(shape, device=model.device) for _ in range(2 - both))
        made.append(parts[0] if both else parts)
    return KVTensors(made, layout, size, scratch_block=blocks - 1)


def driven(model: AttachedModel, blocks: int, size: int, by_rows: bool = True) -> ToyEngine:
    return ToyEngine(model, range(blocks - 1), size, 24, by_rows, model.device)


def check(compiled: Compiled, layout: str, size: int, by_rows: bool = True) -> None:
    blocks = 1 + -(-(len(PROMPTS[0]) + TOKENS) // size) + 128 // size
    model = compiled.model.attach(tensors(compiled.model, layout, blocks, size))
    engine = driven(model, blocks, size, by_rows)
    assert engine.run(PROMPTS, TOKENS) == compiled.expected
    happened = {"decode", "mixed", "preempted", "shared blocks"}
    assert happened <= set(+engine.counts), engine.counts
    assert by_rows == bool(engine.counts["without logits"])
    assert len(engine.blocks.free) == blocks - 1 and not +engine.blocks.owners


# Every layout and every size; where blocks do not follow each other every size too.
QUICK = {(layout, 32) for layout in LAYOUTS}
QUICK |= {(layout, size) for layout in ("two tensors", "by block, heads first") for size in SIZES}


@pytest.mark.parametrize(("layout", "size"), crossed(LAYOUTS, SIZES, quick=QUICK))
def test_layouts_and_block_sizes(cpu: Compiled, layout: str, size: int) -> None:
    check(cpu, LAYOUTS[layout], size)


def test_logits_of_every_sequence_in_one_replay(cpu: Compiled) -> None:
    check(cpu, LAYOUTS["two tensors"], 16, by_rows=False)


@pytest.mark.parametrize("size", [1, 16])
def test_a_flat_pool_of_slots(cpu: Compiled, size: int) -> None:
    check(cpu, "slots heads dim", size)


@pytest.mark.parametrize(
    ("layout", "size"),
    crossed(PACKED, SIZES, quick=[(PACKED[0], 16), (PACKED[0], 128), (PACKED[1], 32)]),
)
def test_what_the_vendor_takes(emulated: Compiled, layout: str, size: int) -> None:
    check(emulated, LAYOUTS[layout], size)


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - set(PACKED)))
def test_what_the_vendor_does_not_take_is_refused(emulated: Compiled, layout: str) -> None:
    with pytest.raises(RequestError, match="its own layout only") as caught:
        emulated.model.attach(tensors(emulated.model, LAYOUTS[layout], 8, 16))
    assert "'blocks heads tokens dim'" in caught.value.expected
    assert "kunlun_ops.reshape_and_cache_flash" in str(caught.value)


def test_blocks_that_no_caller_of_the_vendor_uses_are_refused(emulated: Compiled) -> None:
    layout = LAYOUTS["two tensors, heads first"]
    with pytest.raises(RequestError, match="not known to take blocks") as caught:
        emulated.model.attach(tensors(emulated.model, layout, 40, 8))
    assert "16, 32, 64, 128" in caught.value.expected


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
class TestOnAGpu:
    """Device graphs of body and head, and compiled kernels over the engine's strides."""

    @pytest.mark.parametrize("size", [16, 64])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, cuda: Compiled, layout: str, size: int) -> None:
        assert cuda.model.device.type == "cuda"
        check(cuda, LAYOUTS[layout], size)

    def test_a_flat_pool_and_one_replay(self, cuda: Compiled) -> None:
        check(cuda, "slots heads dim", 1)
        check(cuda, LAYOUTS["one tensor"], 128, by_rows=False)

    def test_prefill_brings_lengths_in_host_memory(self, cuda: Compiled) -> None:
        attached = cuda.model.attach(tensors(cuda.model, LAYOUTS["one tensor"], 8, 16))
        assert attached.needs_host_lengths
        one = torch.ones(1, dtype=torch.int64, device=cuda.model.device)
        step = OuterStep(
            token_ids=one,
            positions=one - 1,
            slot_mapping=one,
            block_tables=one[:, None],
            context_lengths=one,
            cu_seqlens_q=torch.arange(2, device=one.device),
            tokens=1,
            sequences=1,
            longest_query=1,
        )
        assert attached.step(step).isfinite().all()  # decode reads none
        with pytest.raises(RequestError, match="in host memory"):
            attached.step(replace(step, tokens=2, longest_query=2, token_ids=one.expand(2),
                                  positions=one.expand(2), slot_mapping=one.expand(2)))  # fmt: skip


def test_guarded_decode_steps_leave_hidden_states_where_they_are_kept(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Kunlun without device graphs; no Kunlun hardware was used."""
    path = builder.artifact(PLACES[1], "float32", **OPTIONS)
    found = []
    for keeps in (False, True):
        monkeypatch.setattr(outer_model, "_keeps_hidden", lambda device, keeps=keeps: keeps)
        loaded = glmc_runtime.load_model(path, emulate=True, guard_steps=2)
        model = loaded.attach(tensors(loaded, LAYOUTS[PACKED[0]], 8, 16))
        rows = [(0, 5), (5, 6)]
        for first, last in rows:
            chunks = [ScheduledTokens(tuple(PROMPTS[0][first:last]), first, [1])]
            found.append(model.forward(outer_step(chunks, 16, 1), own=False).clone())
        assert model.statistics.guard_steps == {"prefill": 1, "decode": 1}
    assert torch.equal(found[1], found[3]) and found[1].any()
