"""Each CPU rule, lowered by a small emitter that runs its calls, against the op's reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc.backends import target_by_name
from glmc.backends.cpu import TARGET
from glmc.backends.cpu import rules as cpu_rules
from glmc.errors import LoweringError
from glmc.ir.ops import OPS
from glmc.ir.recipe import Constant, Source, Weight
from glmc.lowering import collectives, plain
from glmc.lowering.target import SEQUENCES, TOKENS, Op, Value, fixed
from glmc.pipeline.stages import MERGES
from glmc_runtime.format.extent import Shape
from tests.backends.running_emitter import BLOCK, Runner, lower

GONE_AFTER_THE_PASSES = {"attention", "rope", "norm_rope", "marked_attention", "marked_experts"}
FREQUENCIES = (1.0, 0.5, 0.25, 0.125)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def matrix(width: int) -> Shape:
    return (TOKENS, fixed(width))


def case(name: str, tokens: int, dtype: torch.dtype) -> tuple[dict[str, Any], list[Any]]:
    """Arguments by schema name, and the outputs' shapes and dtypes."""
    x, wide = random(tokens, 16, dtype=dtype), random(tokens, 24, dtype=dtype, seed=2)
    norm, like_x = random(16, dtype=dtype, seed=3), (matrix(16), dtype)
    routed = {
        "gate_up": random(6, 24, 16, dtype=dtype, seed=4) / 4,
        "down": random(6, 16, 12, dtype=dtype, seed=5) / 4,
    }
    gate = {
        "weight": random(8, 16, dtype=dtype, seed=6),
        "bias": random(8, seed=7),
        "top_k": 3,
        "groups": 4,
        "top_groups": 2,
        "group_fill": 0.0,
        "normalize": True,
        "normalize_eps": 1e-20,
        "scale": 2.5,
    }
    ids = torch.arange(tokens * 2).view(tokens, 2) % 6
    cases: dict[str, tuple[dict[str, Any], list[Any]]] = {
        "embedding": ({"token_ids": ids[:, 0], "weight": random(6, 16, dtype=dtype)}, [like_x]),
        "linear": (
            {"x": x, "weight": random(12, 16, dtype=dtype), "bias": random(12, dtype=dtype)},
            [(matrix(12), dtype)],
        ),
        "rms_norm": ({"x": x, "weight": norm, "eps": 1e-5}, [like_x]),
        "add_rms_norm": (
            {"x": x, "residual": x * 2, "weight": norm, "eps": 1e-5},
            [like_x, like_x],
        ),
        "swiglu": ({"x": wide}, [(matrix(12), dtype)]),
        "silu_mul": ({"gate": x, "up": x + 1}, [like_x]),
        "select_rows": ({"x": x, "rows": torch.arange(tokens).flip(0)}, [like_x]),
        "moe_gate": (
            {"x": x, **gate},
            [(matrix(3), torch.float32), (matrix(3), torch.int64)],
        ),
        "moe_ffn": (
            {"x": x, "weights": random(tokens, 2).abs(), "ids": ids, **routed},
            [like_x],
        ),
        "local_moe_ffn": (
            {
                "x": x,
                "weights": random(tokens, 2).abs(),
                "ids": ids * 2,
                **routed,
                "first": torch.tensor([3]),
            },
            [like_x],
        ),
        "shared_expert": (
            {"x": x, "gate_up": routed["gate_up"][0], "down": routed["down"][0], "routed": x + 1},
            [like_x],
        ),
        **traced_cases(tokens, dtype),
    }
    return cases[name]


def traced_cases(tokens: int, dtype: torch.dtype) -> dict[str, tuple[dict[str, Any], list[Any]]]:
    """Two sequences of ``tokens``, one of them with its first keys hidden."""
    heads = random(2, tokens, 8, 16, dtype=dtype)
    like = [(tuple(map(fixed, (2, tokens, 4, 16))), dtype)]
    rotated = {
        "positions": torch.arange(3, 3 + tokens).repeat(2, 1),
        "inverse_frequencies": torch.tensor(FREQUENCIES),
        "interleaved": False,
        "scaling": 1.5,
    }
    mask = torch.ones(2, 1, tokens, 7, dtype=torch.bool)
    mask[1, :, :, :3] = False
    cache = random(2, 2, 7, 16, dtype=dtype, seed=8)
    return {
        "rope": ({"x": heads[:, :, :4].contiguous(), **rotated}, like),
        "norm_rope": (
            {
                "x": heads[:, :, 4:].contiguous(),
                "weight": random(16, dtype=dtype, seed=3),
                "eps": 1e-5,
                **rotated,
            },
            like,
        ),
        "masked_attention": (
            {
                "q": heads[:, :, :4].contiguous(),
                "k": cache,
                "v": cache.flip(2),
                "mask": mask,
                "scale": 0.3,
                "causal": False,
                "safe_softmax": True,
            },
            like,
        ),
    }


PAGED = {"qkv_rope_cache", "prefill_attention", "decode_attention"}
OVER_RANKS = {*collectives.RULES, "all_reduce_add_rms_norm"}
SIMPLE = sorted(set(TARGET.rules) - set(plain.RULES) - OVER_RANKS - PAGED)


def test_every_op_that_survives_the_passes_has_a_rule() -> None:
    merged = {one.name for one in MERGES}  # run only where a target has a rule for their op
    needed = set(OPS) - GONE_AFTER_THE_PASSES - merged
    assert needed <= set(TARGET.rules) <= set(OPS) | set(plain.RULES)
    assert target_by_name("cpu") is TARGET
    assert TARGET.cache_layout == "blocks_tokens_heads"


@pytest.mark.parametrize("name", SIMPLE)
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("dtype", TARGET.dtypes)
def test_rule_agrees_with_the_reference(name: str, tokens: int, dtype: torch.dtype) -> None:
    arguments, results = case(name, tokens, dtype)
    runner = Runner(tokens, dtype)
    outputs = lower(name, runner, arguments, results)
    expected = OPS[name].reference(*(arguments[key] for key in OPS[name].argument_names))
    expected = expected if isinstance(expected, tuple) else (expected,)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for output, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", [name for name in SIMPLE if OPS[name].facts.strided])
@pytest.mark.parametrize("tokens", [1, 5])
def test_strided_operands_are_taken_as_they_are(name: str, tokens: int) -> None:
    arguments, results = case(name, tokens, torch.float32)
    expected = OPS[name].reference(*(arguments[key] for key in OPS[name].argument_names))
    for key in OPS[name].facts.strided:
        arguments[key] = torch.stack((arguments[key],) * 2, -1)[..., 0]
        assert not arguments[key].is_contiguous()
    (out,) = lower(name, Runner(tokens, torch.float32), arguments, results)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("safe", [True, False])
def test_a_query_that_sees_nothing(safe: bool, tokens: int) -> None:
    """The mask of what is seen is made into one that is added; -inf stands for what is not."""
    arguments, results = case("masked_attention", tokens, torch.float32)
    arguments["mask"][1, :, -1] = False
    arguments["safe_softmax"] = safe
    (found,) = lower("masked_attention", Runner(tokens, torch.float32), arguments, results)
    assert bool(found[1, -1].isnan().all()) is not safe and not found[0].isnan().any()
    op = OPS["masked_attention"]
    expected = op.reference(*(arguments[key] for key in op.argument_names))
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_calls_per_op() -> None:
    expected = {
        **{name: [f"cpu.{name}"] for name in SIMPLE},
        "shared_expert": ["cpu.linear", "cpu.swiglu", "cpu.linear", "cpu.add"],
        "rope": ["cpu.rope_table", "cpu.rope"],
        "norm_rope": ["cpu.rope_table", "cpu.rope"],
        "masked_attention": ["cpu.additive_mask", "cpu.masked_attention"],
    }
    for name in SIMPLE:
        runner = Runner(2, torch.float32)
        lower(name, runner, *case(name, 2, torch.float32))
        assert [function for function, _ in runner.calls] == expected[name]
        assert all(host == name.endswith("moe_ffn") for _, host in runner.calls)


def caches(dtype: torch.dtype) -> list[torch.Tensor]:
    return [random(8, BLOCK, 2, 16, dtype=dtype, seed=seed) for seed in (11, 12)]


@pytest.mark.parametrize("with_norms", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
def test_qkv_rope_cache(with_norms: bool, interleaved: bool) -> None:
    tokens, dtype = 3, torch.bfloat16
    runner = Runner(tokens, dtype)
    table = runner.weight(Weight("frequencies", (4,), torch.float32, Constant(FREQUENCIES)))
    kept = caches(dtype)
    norm = random(16, dtype=dtype, seed=9) if with_norms else None
    arguments: dict[str, Any] = {
        "qkv": random(tokens, 8 * 16, dtype=dtype),
        "q_norm": norm,
        "k_norm": norm,
        "positions": torch.tensor([0, 7, 11]),
        "inverse_frequencies": table,
        "slot_mapping": torch.tensor([4, 31, 9]),
        "k_cache": kept[0].clone(),
        "v_cache": kept[1].clone(),
        "q_heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "interleaved": interleaved,
        "rope_scaling": 1.0,
        "norm_eps": 1e-5,
    }
    found = lower("qkv_rope_cache", runner, arguments, [((TOKENS, fixed(4), fixed(16)), dtype)])
    in_graph = {
        **arguments,
        "inverse_frequencies": torch.tensor(FREQUENCIES),
        "k_cache": kept[0].transpose(1, 2).contiguous(),
        "v_cache": kept[1].transpose(1, 2).contiguous(),
    }
    names = OPS["qkv_rope_cache"].argument_names
    expected = OPS["qkv_rope_cache"].reference(*(in_graph[name] for name in names))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1].transpose(1, 2))
    assert torch.equal(found[2], expected[2].transpose(1, 2))


def test_a_rope_table_needs_known_frequencies() -> None:
    runner = Runner(1, torch.float32)
    table = runner.weight(Weight("frequencies", (4,), torch.float32, Source("learned", (4,))))
    values: dict[str, Any] = {
        name: runner.value(torch.zeros(1, 8 * 16)) for name in ("qkv", "positions")
    }
    values |= {"q_norm": None, "k_norm": None, "inverse_frequencies": table}
    values |= {"q_heads": 4, "kv_heads": 2, "head_dim": 16, "rope_scaling": 1.0}
    with pytest.raises(LoweringError, match="compile time"):
        TARGET.rules["qkv_rope_cache"](Op("qkv_rope_cache", "n", "m", 0, values, "decode"), runner)


@pytest.mark.parametrize("name", ["decode_attention", "prefill_attention"])
def test_attention(name: str) -> None:
    lengths, tables = [5, 9], [[3, 4, 0], [7, 1, 2]]
    new = [1, 1] if name == "decode_attention" else [2, 4]
    tokens = sum(new)
    runner = Runner(2, torch.float32)
    bounds = [torch.tensor([0, part[0], sum(part)], dtype=torch.int32) for part in (new, lengths)]
    counts = torch.tensor(lengths, dtype=torch.int32)
    runner.inputs = {
        "cu_seqlens_q_host": bounds[0],
        "cu_seqlens_k_host": bounds[1],
        "context_lengths_host": counts,
    }
    keys, values = caches(torch.float32)
    arguments: dict[str, Any] = {
        "q": random(tokens, 4, 16),
        "k_cache": keys,
        "v_cache": values,
        "block_tables": torch.tensor(tables, dtype=torch.int32),
        "cu_seqlens_q": bounds[0],
        "cu_seqlens_k": bounds[1],
        "context_lengths": counts,
        "scale": 0.25,
    }
    leading = SEQUENCES if name == "decode_attention" else fixed(tokens)
    found = lower(name, runner, arguments, [((leading, fixed(4), fixed(16)), torch.float32)])
    in_graph = {
        **arguments, "k_cache": keys.transpose(1, 2), "v_cache": values.transpose(1, 2)
    }  # fmt: skip
    expected = OPS[name].reference(*(in_graph[key] for key in OPS[name].argument_names))
    torch.testing.assert_close(found[0], expected)
    assert runner.calls == [(f"cpu.{name}", True)]


@pytest.mark.parametrize(
    ("bytes_allowed", "blocks"), [(4095, 0), (4096, 1), (8200, 2), (1 << 20, 3)]
)
def test_room_to_gather_contexts_is_bounded_in_bytes(
    bytes_allowed: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of 4 tokens, 2 kv heads of 16 in float32, for 8 sequences is 4096 bytes."""
    monkeypatch.setattr(cpu_rules, "GATHERED_BYTES", bytes_allowed)
    given: dict[str, Shape] = {}

    class Recorder(Runner):
        def temporary(self, name: str, shape: Shape, dtype: torch.dtype) -> Value:
            given[name] = shape
            return super().temporary(name, shape, dtype)

    runner = Recorder(2, torch.float32)
    runner.inputs = {"context_lengths_host": torch.tensor([5, 9], dtype=torch.int32)}
    keys, values = caches(torch.float32)
    arguments = {
        "q": random(2, 4, 16),
        "k_cache": keys,
        "v_cache": values,
        "block_tables": torch.tensor([[3, 4, 0], [7, 1, 2]], dtype=torch.int32),
        "scale": 0.25,
    }
    lower("decode_attention", runner, arguments, [((TOKENS, fixed(4), fixed(16)), torch.float32)])
    assert given.get("batch_context") == ((SEQUENCES * (2 * 16 * 4 * blocks),) if blocks else None)
