"""Embedding, selection, norms, activation and linear against plain torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cpu import packed as packing
from glmc_runtime.kernels.cpu.narrow import prefers_narrow
from glmc_runtime.kernels.cpu.packed import PACKED_ROWS, PackedWeight, can_pack, pack
from tests.runtime.counting import FreshStorage
from tests.runtime.kernels.harness import FLOATS, close, nan, random, run


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    hidden = x.float()
    hidden = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + eps)
    return weight * hidden.to(x.dtype)


def norm_scratch(rows: int, width: int) -> dict[str, torch.Tensor]:
    return {"hidden": nan(rows, width), "square": nan(rows, width), "variance": nan(rows, 1)}


def test_the_counter_sees_an_allocation() -> None:
    with FreshStorage() as counter:
        F.linear(random(1, 8), random(4, 8))
    assert counter.fresh


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_embedding_and_select_rows_are_bitwise(dtype: torch.dtype, index: torch.dtype) -> None:
    weight, ids = random(11, 6, dtype=dtype), torch.tensor([10, 0, 0, 7], dtype=index)
    for name, arguments in (
        ("embedding", {"token_ids": ids, "weight": weight}),
        ("select_rows", {"rows": ids, "x": weight}),
    ):
        out = nan(4, 6, dtype=dtype)
        run(name, out=out, **arguments)
        assert torch.equal(out, weight[ids.long()])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("size", [1.0, 1e-4, 200.0])
def test_norms_are_bitwise(dtype: torch.dtype, rows: int, size: float) -> None:
    x = (random(rows, 48) * size).to(dtype)
    residual, weight = random(rows, 48, dtype=dtype, seed=2), random(48, dtype=dtype, seed=3)
    out, total = nan(rows, 48, dtype=dtype), nan(rows, 48, dtype=dtype)
    run("rms_norm", x=x, weight=weight, eps=1e-5, out=out, **norm_scratch(rows, 48))
    assert torch.equal(out, rms_norm(x, weight, 1e-5))
    run(
        "add_rms_norm",
        x=x,
        residual=residual,
        weight=weight,
        eps=1e-5,
        out=out,
        total=total,
        **norm_scratch(rows, 48),
    )
    assert torch.equal(total, residual + x)
    assert torch.equal(out, rms_norm(residual + x, weight, 1e-5))


def test_norm_of_zeros_is_zero() -> None:
    out = nan(2, 8)
    run("rms_norm", x=torch.zeros(2, 8), weight=torch.ones(8), eps=1e-5, out=out,
        **norm_scratch(2, 8))  # fmt: skip
    assert torch.equal(out, torch.zeros(2, 8))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", [1, 7])
def test_activations_are_bitwise(dtype: torch.dtype, rows: int) -> None:
    x = random(rows, 40, dtype=dtype) * 4
    gate, up = x[:, :20], x[:, 20:]
    expected, out = F.silu(gate) * up, nan(rows, 20, dtype=dtype)
    run("swiglu", x=x, out=out)
    assert torch.equal(out, expected)
    gate, up = gate.contiguous(), up.contiguous()
    run("silu_mul", gate=gate, up=up, out=out)
    assert torch.equal(out, F.silu(gate) * up)


@pytest.mark.parametrize("dtype", FLOATS)
def test_add_in_place(dtype: torch.dtype) -> None:
    x, y = random(3, 8, dtype=dtype), random(3, 8, dtype=dtype, seed=2)
    out, expected = y.clone(), x + y
    find_binder("cpu.add")({"x": x, "y": out, "out": out})()
    assert torch.equal(out, expected)


@pytest.fixture
def packs_small_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if they were large, and whatever oneDNN takes for them."""
    monkeypatch.setattr(packing, "PACKED_ELEMENTS", 0)
    monkeypatch.setattr(packing, "has_fast_product", lambda *shape: True)


@pytest.mark.parametrize("elements", [0, packing.PACKED_ELEMENTS])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", [1, 2, 4, PACKED_ROWS, PACKED_ROWS + 1, 40])
@pytest.mark.parametrize(("size", "depth"), [(6, 8), (64, 48), (33, 17), (256, 96), (1, 64)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear(
    dtype: torch.dtype,
    rows: int,
    size: int,
    depth: int,
    with_bias: bool,
    elements: int,
    packs_small_weights: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "PACKED_ELEMENTS", elements)
    x, weight = random(rows, depth, dtype=dtype), random(size, depth, dtype=dtype, seed=2)
    weight = weight / depth**0.5
    bias = random(size, dtype=dtype, seed=3) if with_bias else None
    out = nan(rows, size, dtype=dtype)
    ours = prefers_narrow(weight) and not packing.prefers_packed(rows, weight)
    run("linear", by_torch=not ours, x=x, weight=weight, bias=bias, out=out)
    expected = x.double() @ weight.double().t()
    close(out, expected if bias is None else expected + bias.double())


def test_linear_over_the_rows_of_a_larger_weight() -> None:
    weight, x, out = random(32, 16), random(2, 16, seed=2), nan(2, 8)
    run("linear", x=x, weight=weight[8:16], bias=None, out=out)
    close(out, x @ weight[8:16].t())


def test_a_weight_is_packed_once_for_all_buckets(
    packs_small_weights: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_pack(torch.float32):
        pytest.skip("no oneDNN for float32 here")
    made: list[torch.Tensor] = []
    original = PackedWeight.__init__

    def count(self: PackedWeight, weight: torch.Tensor) -> None:
        made.append(weight)
        original(self, weight)

    monkeypatch.setattr(PackedWeight, "__init__", count)
    weight = random(24, 16)
    thunks = [
        find_binder("cpu.linear")({"x": random(rows, 16), "weight": weight, "out": nan(rows, 24)})
        for rows in (2, 4, 8)
    ]
    for thunk in thunks:
        thunk()
    assert len(made) == 1


def test_a_weight_is_packed_once_and_told_from_others() -> None:
    if not can_pack(torch.float32):
        pytest.skip("oneDNN is off")
    weight = random(8, 8)
    packed = pack(weight)
    assert pack(weight) is packed
    assert pack(weight[:4]) is not packed


@pytest.fixture
def asked_afresh() -> Iterator[None]:
    packing.has_amx_tiles.cache_clear()
    yield
    packing.has_amx_tiles.cache_clear()


@pytest.mark.parametrize("tiles", [False, True])
def test_bfloat16_is_packed_only_without_amx(
    monkeypatch: pytest.MonkeyPatch, packs_small_weights: None, tiles: bool
) -> None:
    monkeypatch.setattr(packing, "has_amx_tiles", lambda: tiles)
    monkeypatch.setattr(packing, "can_pack", lambda dtype: True)
    any_weight = random(8, 8)
    for rows in (1, PACKED_ROWS):
        assert packing.prefers_packed(rows, any_weight.bfloat16()) is not tiles
    assert packing.prefers_packed(PACKED_ROWS, any_weight)
    assert not packing.prefers_packed(1, any_weight)
    x, weight = random(2, 64, dtype=torch.bfloat16), random(32, 64, dtype=torch.bfloat16, seed=2)
    out = nan(2, 32, dtype=torch.bfloat16)
    weight /= 8
    if not tiles and not can_pack(torch.bfloat16):
        pytest.skip("oneDNN has no blocked bfloat16 here")
    run("linear", by_torch=not prefers_narrow(weight), x=x, weight=weight, bias=None, out=out)
    close(out, x.double() @ weight.double().t())


def test_small_weights_and_shapes_of_a_reference_kernel_are_not_packed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "can_pack", lambda dtype: True)
    monkeypatch.setattr(packing, "has_fast_product", lambda *shape: shape[0] != 8)
    large = torch.zeros(512, packing.PACKED_ELEMENTS // 512)
    assert packing.prefers_packed(4, large) and not packing.prefers_packed(8, large)
    assert not packing.prefers_packed(4, large[:-1])


@pytest.mark.parametrize(("factor", "fast"), [(1, True), (50, False)])
def test_a_reference_kernel_is_known_by_its_time(
    monkeypatch: pytest.MonkeyPatch, factor: int, fast: bool
) -> None:
    if not can_pack(torch.float32):
        pytest.skip("oneDNN is off")
    times = iter([float(factor), 1.0])
    monkeypatch.setattr(packing, "_best", lambda thunk: next(times))
    assert packing.has_fast_product.__wrapped__(2, 8, 8, torch.float32) is fast


@pytest.mark.parametrize("tiles", [False, True])
def test_amx_is_what_torch_says(
    monkeypatch: pytest.MonkeyPatch, asked_afresh: None, tiles: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles, raising=False)
    assert packing.has_amx_tiles() is tiles


@pytest.mark.parametrize(
    ("flags", "tiles"),
    [("fma amx_bf16 amx_tile avx2", True), ("fma avx512_bf16 amx_tiles", False), (None, False)],
)
def test_amx_is_read_from_the_flags_where_torch_is_too_old(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    asked_afresh: None,
    flags: str | None,
    tiles: bool,
) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    listing = tmp_path / "cpuinfo"
    if flags is not None:
        listing.write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr(packing, "_PROCESSOR", listing)
    assert packing.has_amx_tiles() is tiles


@pytest.mark.parametrize(
    "change",
    [{"x": random(2, 7)}, {"out": nan(2, 5)}, {"weight": random(6, 8, dtype=torch.bfloat16)}],
)
def test_linear_refuses_what_does_not_fit(change: dict[str, torch.Tensor]) -> None:
    arguments = {"x": random(2, 8), "weight": random(6, 8), "bias": None, "out": nan(2, 6)}
    with pytest.raises(PlanError):
        find_binder("cpu.linear")({**arguments, **change})


def test_other_dtypes_are_refused_by_name() -> None:
    x = torch.zeros(2, 8, dtype=torch.float64)
    with pytest.raises(PlanError, match="float64"):
        find_binder("cpu.linear")({"x": x, "weight": x, "bias": None, "out": x})
