"""Two MoE layers through the lowering driver, the memory plan and the runtime's binder, emulated.

What the bench can't show: buffers share memory here, so a value that dies too early, a histogram or
a buffer of ones that is overwritten between layers, or a copy that is missing changes the logits.
"""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from glmc.backends.kunlun import TARGET
from glmc.ir.ops import OPS
from glmc.ir.program import Cache, ModelShape, Program
from glmc.ir.recipe import Constant, Source, Weight
from glmc.ir.symbols import Symbols
from glmc.lowering.lower import Lowered, lower
from glmc.lowering.target import LoweringOptions
from glmc_runtime.format.cache import CacheKey
from glmc_runtime.format.plan_json import phase_from_json, phase_to_json
from glmc_runtime.kernels.vendor import find_vendor
from glmc_runtime.replay.arena import Arena
from glmc_runtime.replay.bind import Memory, PhaseBinder
from glmc_runtime.replay.bind import Symbols as Counts
from glmc_runtime.replay.cache import KVCache
from glmc_runtime.replay.inputs import StepInputs
from glmc_runtime.replay.step import ScheduledTokens, Step
from tests.backends.kunlun.harness import PROFILES, random
from tests.runtime.toy import key_value_cache

LAYERS, HIDDEN, HEADS, KV_HEADS, D, WIDTH, EXPERTS, TOP_K, VOCABULARY = (
    2,
    64,
    2,
    1,
    32,
    32,
    8,
    3,
    96,
)
CONTEXT, BLOCK, BUCKET = 64, 16, 4
CPU = torch.device("cpu")
MODEL = ModelShape(
    "hand-made", "Glm4Moe", LAYERS, VOCABULARY, HIDDEN, HEADS, KV_HEADS, D, CONTEXT, (0,), 1, False
)


class Builder:
    """A decode graph of semantic ops, with the fake values, weights and ids that passes leave."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.graph, self.symbols, self.dtype = Graph(), Symbols(), dtype
        self.weights: dict[str, Weight] = {}
        self.data: dict[str, Tensor] = {}
        self.layer: int | None = None

    def input(self, name: str, *dims: int | str, dtype: torch.dtype) -> Node:
        node = self.graph.placeholder(name.replace(".", "_"))
        node.meta |= {"input": name, "val": self.symbols.fake(name, dims, dtype)}
        return node

    def cache(self, cache: Cache, dtype: torch.dtype) -> Node:
        node = self.input(cache.name, "blocks", *cache.block_shape(BLOCK), dtype=dtype)
        node.meta["cache"] = cache
        return node

    def weight(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Node:
        name = name if self.layer is None else f"layers.{self.layer}.{name}"
        dtype = dtype or self.dtype
        data = random(*shape, dtype=dtype, seed=len(self.weights)) * (0.2 if len(shape) > 1 else 1)
        if name == "frequencies":
            data = 100.0 ** (-torch.arange(shape[0]) / shape[0])
        constant = Constant(tuple(data.tolist())) if name == "frequencies" else None
        self.weights[name] = Weight(name, shape, dtype, constant or Source(name, shape))
        self.data[name] = data
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            node = self.graph.placeholder(name.replace(".", "_"))
        node.meta |= {"weight": name, "val": self.symbols.fake(name, shape, dtype)}
        return node

    def op(self, name: str, *arguments: Any) -> Any:
        target = OPS[name].overload
        fakes = [item.meta["val"] if isinstance(item, Node) else item for item in arguments]
        with self.symbols.fake_mode:
            value = target(*fakes)
        node = self._call(target, arguments, value)
        if not isinstance(value, tuple):
            return node
        return [self._call(operator.getitem, (node, i), item) for i, item in enumerate(value)]

    def reshape(self, node: Node, *sizes: Any) -> Node:
        with self.symbols.fake_mode:
            value = node.meta["val"].reshape(*sizes)
        return self._call(torch.ops.aten.reshape.default, (node, [-1, *sizes[1:]]), value)

    def _call(self, target: Any, arguments: tuple[Any, ...], value: Any) -> Node:
        node = self.graph.call_function(target, arguments)
        where = {"module": "model", "layer": self.layer, "source": None}
        node.meta |= {"id": node.name, "val": value, **where}
        return node


def decode_program(dtype: torch.dtype, normalize: bool) -> tuple[Program, dict[str, Tensor]]:
    at = Builder(dtype)
    int64, int32 = torch.int64, torch.int32
    ids = at.input("token_ids", "tokens", dtype=int64)
    positions = at.input("positions", "tokens", dtype=int64)
    slots = at.input("slot_mapping", "tokens", dtype=int64)
    tables = at.input("block_tables", "tokens", "table", dtype=int32)
    lengths = at.input("context_lengths", "tokens", dtype=int32)
    caches = [
        [at.cache(Cache(CacheKey(kind, layer), (KV_HEADS, D)), dtype) for kind in ("key", "value")]
        for layer in range(LAYERS)
    ]
    frequencies = at.weight("frequencies", 8, dtype=torch.float32)
    residual = at.op("embedding", ids, at.weight("embed", VOCABULARY, HIDDEN))
    branch: Node | None = None
    for layer in range(LAYERS):
        at.layer = layer
        norm = at.weight("norm", HIDDEN)
        if branch is None:
            x = at.op("rms_norm", residual, norm, 1e-5)
        else:
            x, residual = at.op("add_rms_norm", branch, residual, norm, 1e-5)
        width = (HEADS + 2 * KV_HEADS) * D
        qkv = at.op("linear", x, at.weight("qkv", width, HIDDEN), at.weight("qkv_bias", width))
        norms = (at.weight("q_norm", D), at.weight("k_norm", D))
        q, k_cache, v_cache = at.op(
            "qkv_rope_cache", qkv, *norms, positions, frequencies, slots, *caches[layer],
            HEADS, KV_HEADS, D, False, 1.0, 1e-5,
        )  # fmt: skip
        out = at.op("decode_attention", q, k_cache, v_cache, tables, lengths, D**-0.5)
        flat = at.reshape(out, out.meta["val"].shape[0], HEADS * D)
        branch = at.op("linear", flat, at.weight("o", HIDDEN, HEADS * D), None)
        x, residual = at.op("add_rms_norm", branch, residual, at.weight("norm2", HIDDEN), 1e-5)
        bias = at.weight("bias", EXPERTS, dtype=torch.float32)
        gate = (at.weight("gate", EXPERTS, HIDDEN), bias)
        weights, chosen = at.op("moe_gate", x, *gate, TOP_K, 1, 1, 0.0, normalize, 1e-20, 2.5)
        stacked = (
            at.weight("w13", EXPERTS, 2 * WIDTH, HIDDEN),
            at.weight("w2", EXPERTS, HIDDEN, WIDTH),
        )
        routed = at.op("moe_ffn", x, weights, chosen, *stacked)
        shared = (at.weight("s13", 2 * WIDTH, HIDDEN), at.weight("s2", HIDDEN, WIDTH))
        branch = at.op("shared_expert", x, *shared, routed)
    at.layer = None
    x, _ = at.op("add_rms_norm", branch, residual, at.weight("norm", HIDDEN), 1e-5)
    at.graph.output((at.op("linear", x, at.weight("head", VOCABULARY, HIDDEN), None),))
    module = GraphModule(torch.nn.Module(), at.graph)
    program = Program(module, at.weights, MODEL, dtype, "decode", symbols=at.symbols)
    return program, at.data


SIZES = {"tokens": BUCKET, "sequences": BUCKET}


class Session:
    """The runtime's own parts around one plan, without an artifact on disk."""

    def __init__(self, lowered: Lowered, data: dict[str, Tensor], profile: str) -> None:
        plan = phase_from_json(phase_to_json(lowered.plan))
        spec = key_value_cache(
            LAYERS, KV_HEADS, D, "float32", BLOCK, CONTEXT // BLOCK, TARGET.cache_layout
        )
        self.cache = KVCache(spec, 9, CPU)
        self.inputs = StepInputs(plan.inputs, SIZES, CPU)
        arena = Arena(plan.arena.evaluate(SIZES), CPU)
        arena.memory.view(torch.int8).fill_(-1)  # NaN in every float dtype
        weights = {name: _packed(weight, data) for name, weight in lowered.weights.items()}
        self.vendor = find_vendor(profile, True)
        memory = Memory(arena, self.inputs, weights, self.cache, self.vendor)
        self.binder = PhaseBinder(plan, memory, 4)
        self.plan = plan

    def step(self, chunks: list[ScheduledTokens]) -> Tensor:
        step = Step(chunks, BUCKET, BUCKET, BLOCK)
        self.inputs.fill(step)
        counts = Counts(step.sizes, step.real)
        for thunk in self.binder.bind(0, len(self.plan.calls) - 1, counts):
            thunk()
        return self.binder.output(counts).clone()


def _packed(weight: Weight, data: dict[str, Tensor]) -> Tensor:
    recipe = weight.recipe
    if isinstance(recipe, Source):
        return data[recipe.name].to(weight.dtype)
    if isinstance(recipe, Constant):
        return torch.tensor(recipe.values, dtype=weight.dtype)
    angles = torch.arange(recipe.rows).unsqueeze(1) * torch.tensor(recipe.inverse_frequencies)
    return torch.cat((angles.cos(), angles.sin()), 1).to(weight.dtype)


def _reference_inputs(chunks: list[ScheduledTokens], cache: KVCache) -> dict[str, Tensor]:
    """What the graph itself wants for the real rows of a step."""
    where = [(chunk.blocks[chunk.start // BLOCK], chunk.start % BLOCK) for chunk in chunks]
    tables = torch.zeros(len(chunks), CONTEXT // BLOCK, dtype=torch.int32)
    for row, chunk in enumerate(chunks):
        tables[row, : len(chunk.blocks)] = torch.tensor(chunk.blocks)
    starts = torch.tensor([chunk.start for chunk in chunks])
    caches = {
        f"{kind}_cache.{layer}": cache.tensor(kind, layer).clone()
        for kind in ("key", "value")
        for layer in range(LAYERS)
    }
    return {
        "token_ids": torch.tensor([chunk.tokens[0] for chunk in chunks]),
        "positions": starts,
        "slot_mapping": torch.tensor([block * BLOCK + offset for block, offset in where]),
        "block_tables": tables,
        "context_lengths": (starts + 1).int(),
        **caches,
    }


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("normalize", [True, False])
def test_logits_of_several_steps(profile: str, normalize: bool) -> None:
    program, data = decode_program(torch.float32, normalize)
    options = LoweringOptions(torch.float32, CONTEXT, BLOCK, BUCKET, 16, profile)
    lowered = lower(program, TARGET, options)
    session = Session(lowered, data, profile)
    blocks = [[1, 2], [5], [7, 8]]
    for number, real in enumerate((3, 3, 1, 2)):
        chunks = [
            ScheduledTokens(
                [(7 * number + row) % VOCABULARY], 14 + number if row != 1 else number, blocks[row]
            )
            for row in range(real)
        ]
        expected = program.run(_reference_inputs(chunks, session.cache), data)[0]
        torch.testing.assert_close(session.step(chunks), expected, rtol=1e-4, atol=1e-4)
    assert bool(lowered.remarks) != normalize


def test_the_plan_of_a_layer() -> None:
    """Calls per layer as the driver makes them: no hidden copies, one eager call per layer."""
    program, _ = decode_program(torch.float32, True)
    plan = lower(program, TARGET, LoweringOptions(torch.float32, CONTEXT, BLOCK, 4, 16, "P-A")).plan
    second = [call for call in plan.calls if call.layer == 1]
    vendor = [call for call in second if call.function.startswith(("kunlun_ops", "aten.linear"))]
    assert len(vendor) == 19 and sum(call.host for call in second) == 1
    helpers = sorted(call.function for call in second if call not in vendor)
    assert helpers == ["aten.add", "aten.split_columns", *["aten.zero"] * 4]
    assert [segment.captured for segment in plan.segments] == [True, False, True, False, True]
