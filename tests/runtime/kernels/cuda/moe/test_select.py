"""Every variant to run the experts against float32 with the roundings of eager code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glmc.ir.ops import moe as semantic
from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cuda import workspace
from glmc_runtime.kernels.cuda.descriptors import can_describe
from glmc_runtime.kernels.cuda.moe import by_expert, by_token, sorted_tiles
from glmc_runtime.kernels.cuda.moe import select as moe_ffn
from glmc_runtime.kernels.cuda.moe.common import read_call
from glmc_runtime.kernels.cuda.tuned import TABLES, read_table
from tests.runtime.kernels.harness import close, nan, random
from tests.support.interpreted import stored

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DESCRIBED = can_describe(torch.zeros(8, 8, dtype=torch.bfloat16, device=DEVICE))
RUNS = 2 if torch.cuda.is_available() else 1
HIDDEN, EXPERTS, TOP_K, WIDTH = 24, 6, 3, 16

SMALL = {"up_n": 16, "up_k": 16, "down_n": 16, "down_k": 16}
EVEN = {"up_n": 8, "up_k": 8, "down_n": 8, "down_k": 8}
LEFT = {"up_left": True, "down_left": True}
BY_TOKEN = {"variant": "by_token", **SMALL, "up_n": 4, "up_unroll": 2}
BY_EXPERT = {"variant": "by_expert", **SMALL}
SORTED_TILES = {"variant": "sorted_tiles", **SMALL, "rows": 16, "down_n": 32}
TMA_TILES = {"variant": "tma_tiles", **SMALL, "rows": 16, "group": 2, "down_n": 32}
VARIANTS: dict[str, dict[str, Any]] = {
    "by_token": BY_TOKEN,
    "by_token even": {**BY_TOKEN, **EVEN, "up_k": 4, "up_unroll": 6},
    "by_expert": BY_EXPERT,
    "by_expert even": {**BY_EXPERT, **EVEN},
    "by_expert, columns first": {
        **BY_EXPERT,
        "up_columns_first": True,
        "down_columns_first": True,
    },
    "by_expert, three launches": {**BY_EXPERT, "last_reduces": False, "rows": 32},
    "sorted_tiles": SORTED_TILES,
    "sorted_tiles even": {**SORTED_TILES, **EVEN, "group": 3},
    "sorted_tiles, weights left": {**SORTED_TILES, **LEFT, "rows": 8, "group": 1},
    "sorted_tiles, weights left below": {**SORTED_TILES, "up_n": 8, "up_k": 8, "down_left": True},
    "tma_tiles": TMA_TILES,
    "tma_tiles, whole tiles": {**TMA_TILES, "halves": False, "rows": 8, "up_k": 32, "down_k": 32},
    "grouped_mm": {"variant": "grouped_mm"},
}
MAIN = ("by_token", "by_expert", "sorted_tiles", "tma_tiles", "grouped_mm")


def choices(kind: str, tokens: int, top_k: int = TOP_K) -> torch.Tensor:
    if kind == "one expert":
        return torch.full((tokens, 1), EXPERTS - 2)
    if kind == "same experts":
        return torch.tensor([[4, 0, 5]]).repeat(tokens, 1)
    generator = torch.Generator().manual_seed(tokens)
    return torch.stack(
        [torch.randperm(EXPERTS, generator=generator)[:top_k] for _ in range(tokens)]
    )


def call(
    ids: torch.Tensor, dtype: torch.dtype, shared_width: int = 0, width: int = WIDTH
) -> dict[str, Any]:
    tokens, top_k = ids.shape
    tensors: dict[str, torch.Tensor | None] = {
        "x": random(tokens, HIDDEN, dtype=dtype),
        "weights": random(tokens, top_k, seed=2).abs(),
        "ids": ids,
        "gate_up": (random(EXPERTS, 2 * width, HIDDEN, seed=3) / HIDDEN**0.5).to(dtype),
        "down": (random(EXPERTS, HIDDEN, width, seed=4) / width**0.5).to(dtype),
        "out": nan(tokens, HIDDEN, dtype=dtype),
        "shared_gate_up": None,
        "shared_down": None,
    }
    if shared_width:
        tensors["shared_gate_up"] = (random(2 * shared_width, HIDDEN, seed=5) / HIDDEN**0.5).to(
            dtype
        )
        tensors["shared_down"] = (random(HIDDEN, shared_width, seed=6) / shared_width**0.5).to(
            dtype
        )
    return {k: None if v is None else v.to(DEVICE).contiguous() for k, v in tensors.items()}


def rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float32 ``values`` in the precision of ``dtype``."""
    return stored(values, dtype).float()


def expert(x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """One expert in float32, rounded where eager code rounds."""
    merged = rounded(x.float() @ gate_up.float().t(), x.dtype)
    gate, up = merged.chunk(2, -1)
    activated = rounded(rounded(F.silu(gate), x.dtype) * up, x.dtype)
    return rounded(activated @ down.float().t(), x.dtype)


def reference(arguments: dict[str, Any]) -> torch.Tensor:
    x, weights, ids, gate_up, down = (
        arguments[name] for name in ("x", "weights", "ids", "gate_up", "down")
    )
    total = torch.zeros(x.shape, device=x.device)
    for token in range(ids.shape[0]):
        for slot, one in enumerate(ids[token].tolist()):
            result = expert(x[token : token + 1], gate_up[one], down[one])
            total[token] += weights[token, slot] * result[0]
    routed = rounded(total, x.dtype)
    if arguments["shared_down"] is None:
        return routed
    shared = expert(x, arguments["shared_gate_up"], arguments["shared_down"])
    return rounded(routed + shared, x.dtype)


def check_result(arguments: dict[str, Any], by_torch: bool = False) -> None:
    """In float32 all but equal; in bfloat16 one sum may have fallen to the other side.

    ``by_torch``: products are torch's, which rounds even where the interpreter cuts.
    """
    expected = reference(arguments)
    share = 2e-5 if arguments["x"].dtype == torch.float32 else 3e-2 if by_torch else 1e-2
    atol = share * float(expected.abs().max())
    torch.testing.assert_close(arguments["out"].float(), expected, atol=atol, rtol=0.0)


def poison() -> None:
    workspace.floats(DEVICE, 1 << 16).fill_(torch.nan)


def check(
    arguments: dict[str, Any], configuration: dict[str, Any] | None = None, runs: int = RUNS
) -> None:
    """Bind and run on poisoned memory; the same bits each time, counters back at zero."""
    thunk = find_binder("cuda.moe_ffn")({**arguments, "configuration": configuration})
    outputs = []
    for _ in range(runs):
        poison()
        arguments["out"].fill_(torch.nan)
        thunk()
        outputs.append(arguments["out"].clone())
        assert torch.equal(outputs[0], outputs[-1])
        assert not workspace.arrival_counters(DEVICE, 64).any()
    check_result(arguments, (configuration or {}).get("variant") == "grouped_mm")


CASES = [(1, "random", 0), (2, "random", 24), (19, "random", 16), (35, "one expert", 0)]


def serves(variant: str, dtype: torch.dtype, tokens: int, shared_width: int) -> bool:
    if variant.startswith("tma_tiles"):
        return DESCRIBED and dtype == torch.bfloat16 and shared_width in (0, WIDTH)
    if variant == "grouped_mm":
        return dtype == torch.bfloat16 and hasattr(torch, "_grouped_mm")
    return tokens <= 4 or not variant.startswith("by_token")


def is_quick(variant: str, dtype: torch.dtype, case: tuple[int, str, int]) -> bool:
    """Every case of the main variants in one dtype, and one or two of what repeats them."""
    if variant not in MAIN:
        return case == CASES[1 if variant.startswith("by_token") else 2]
    return (
        variant in ("grouped_mm", "tma_tiles")
        or dtype == torch.float32
        or case in (CASES[1], CASES[3])
    )


@pytest.mark.parametrize(
    ("variant", "dtype", "tokens", "kind", "shared_width"),
    [
        pytest.param(
            *(variant, dtype, *case),
            id=f"{variant}-{dtype}-{case}",
            marks=() if is_quick(variant, dtype, case) else pytest.mark.slow,
        )
        for variant in VARIANTS
        for dtype in (torch.float32, torch.bfloat16)
        for case in CASES
        # What the variants change is the same in all dtypes.
        if serves(variant, dtype, case[0], case[2])
        and (variant in MAIN or dtype == torch.float32 or variant.startswith("tma_tiles"))
    ],
)
def test_variants(
    variant: str, dtype: torch.dtype, tokens: int, kind: str, shared_width: int
) -> None:
    if torch.cuda.is_available() and variant in ("by_expert even", "sorted_tiles even"):
        pytest.skip("a dot on a device is at least 16 deep, and so small a block is not")
    check(call(choices(kind, tokens), dtype, shared_width), VARIANTS[variant])


@pytest.mark.parametrize("variant", ["by_token", "by_expert", "sorted_tiles"])
def test_the_reference_is_the_semantic_op(variant: str) -> None:
    arguments = call(choices("same experts", 3), torch.float32, 24)
    check(arguments, VARIANTS[variant], runs=2)
    names = ("x", "weights", "ids", "gate_up", "down")
    routed = semantic.moe_ffn(*(arguments[name] for name in names))
    shared = (arguments["shared_gate_up"], arguments["shared_down"])
    close(arguments["out"], semantic.shared_expert(arguments["x"], *shared, routed))


@pytest.mark.parametrize("tokens", [1, 70])
@pytest.mark.parametrize("variant", ["by_expert", "sorted_tiles"])
def test_a_width_that_no_block_divides(tokens: int, variant: str) -> None:
    ids = choices("random", tokens, 2)
    check(call(ids, torch.float32, shared_width=13, width=21), VARIANTS[variant])


def test_many_more_experts_than_pairs_read_only_the_chosen() -> None:
    """What nobody chose is NaN, and would show."""
    for variant in ("by_token", "by_expert", "sorted_tiles"):
        arguments = call(torch.tensor([[1, 4], [4, 2]]), torch.float32, 16)
        for name in ("gate_up", "down"):
            arguments[name][[0, 3, 5]] = torch.nan
        check(arguments, VARIANTS[variant])


def test_a_call_follows_ids_between_runs() -> None:
    for variant in ("by_expert", "sorted_tiles"):
        arguments = call(choices("random", 3), torch.float32, 16)
        thunk = find_binder("cuda.moe_ffn")({**arguments, "configuration": VARIANTS[variant]})
        thunk()
        for seed in (7, 9):
            arguments["ids"].copy_(choices("random", seed)[:3])
            thunk()
            check_result(arguments)


def test_defaults_serve_all_numbers_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe_ffn, "MOST_SCANNED_PAIRS", {4: 32})
    variants = []
    for tokens in (1, 4, 12):
        arguments = call(choices("random", tokens), torch.float32, 24)
        variants.append(moe_ffn.choose(read_call(arguments), None)["variant"])
        check(arguments)
    assert variants == ["by_token", "by_expert", "sorted_tiles"]


@pytest.mark.skipif(not DESCRIBED, reason="no device or interpreter with descriptors")
def test_a_tuned_entry_that_can_not_run_has_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table's key knows neither the shared expert's width nor where tensors begin."""
    monkeypatch.setattr(moe_ffn, "tuned_configuration", lambda *_: TMA_TILES)
    ids = choices("random", 40)
    variants = [
        moe_ffn.choose(read_call(call(ids, torch.bfloat16, shared_width)), None)["variant"]
        for shared_width in (WIDTH, 2 * WIDTH)
    ]
    assert variants == ["tma_tiles", "by_expert"]


def test_many_rows_of_an_expert_come_by_tma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe_ffn, "MOST_SCANNED_PAIRS", {2: 1, 4: 1})
    monkeypatch.setattr(moe_ffn, "LEAST_TMA_ROWS", 4)
    for tokens, dtype, width, variant in (
        (7, torch.bfloat16, WIDTH, "sorted_tiles"),  # 3.5 rows of each
        (8, torch.bfloat16, WIDTH, "tma_tiles"),
        (8, torch.bfloat16, WIDTH - 4, "sorted_tiles"),  # rows of 24 bytes can't be described
        (8, torch.float32, WIDTH, "sorted_tiles"),
    ):
        one = read_call(call(choices("random", tokens), dtype, width=width))
        assert moe_ffn.choose(one, None)["variant"] == variant


@pytest.mark.parametrize(
    ("dtype", "width", "shared_width"),
    [(torch.float32, 16, 16), (torch.bfloat16, 16, 8), (torch.bfloat16, 12, 12)],
)
def test_tma_refuses_what_descriptors_can_not_read(
    dtype: torch.dtype, width: int, shared_width: int
) -> None:
    arguments = call(choices("random", 40), dtype, shared_width, width)
    with pytest.raises(PlanError, match="can't be read by tensor descriptors"):
        find_binder("cuda.moe_ffn")({**arguments, "configuration": TMA_TILES})


@pytest.mark.skipif(not DESCRIBED, reason="no device or interpreter with descriptors")
@pytest.mark.parametrize("counts", [(8, 1), (9, 16), (17, 24), (33, 2)])
def test_tiles_of_an_experts_last_rows(counts: tuple[int, int]) -> None:
    """Of rows that end within half a tile, at its half, behind it and at its end."""
    ids = torch.cat([torch.full((count, 1), one) for one, count in enumerate(counts)])
    check(call(ids, torch.bfloat16, shared_width=WIDTH), TMA_TILES)


@pytest.mark.parametrize(("tokens", "variant"), [(2, "by_token"), (8, "by_expert")])
def test_an_entry_that_is_a_variant_alone_has_its_default(tokens: int, variant: str) -> None:
    one = read_call(call(choices("random", tokens), torch.bfloat16))
    assert moe_ffn.choose(one, {"variant": variant}) == moe_ffn.VARIANTS[variant].default(one)


def test_a_card_with_little_shared_memory_takes_fewer_stages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = read_call(call(choices("random", 16), torch.bfloat16))
    for memory, stages in ((227 << 10, 3), (99 << 10, 2)):
        monkeypatch.setattr(sorted_tiles, "shared_memory", lambda _, memory=memory: memory)
        found = sorted_tiles.default(one)
        assert (found["rows"], found["up_stages"], found["down_stages"]) == (16, stages, stages)


def test_candidates_are_complete_and_start_with_the_default() -> None:
    for tokens in (1, 8, 32, 128):
        one = read_call(call(choices("random", tokens), torch.bfloat16))
        found = list(moe_ffn.candidates(one))
        assert found[0] == moe_ffn.default(one)
        for module in (by_token, by_expert, sorted_tiles):
            base = module.default(one)
            for candidate in found:
                if candidate["variant"] == base["variant"]:
                    assert candidate.keys() == base.keys()


def test_variants_have_the_names_of_their_files_in_tables_too() -> None:
    for name, module in moe_ffn.VARIANTS.items():
        assert module.__name__.rpartition(".")[2] == name
    for path in TABLES.glob("*.json"):
        for by_key in read_table(path)["moe_ffn"].values():
            entries = [entry for by_rows in by_key.values() for entry in by_rows.values()]
            assert entries and {entry["variant"] for entry in entries} <= moe_ffn.VARIANTS.keys()


def test_the_page_names_every_variant() -> None:
    page = (Path(__file__).parents[5] / "docs" / "cuda.md").read_text(encoding="utf-8")
    assert [name for name in moe_ffn.VARIANTS if f"`{name}`" not in page] == []


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(PlanError, match="no variant 'sideways'"):
        check(call(choices("random", 2), torch.float32), {"variant": "sideways"})


def test_half_a_shared_expert_is_refused() -> None:
    arguments = call(choices("random", 2), torch.float32, 16)
    arguments["shared_down"] = None
    with pytest.raises(PlanError, match="one of its two weights"):
        find_binder("cuda.moe_ffn")(arguments)
