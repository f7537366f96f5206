from __future__ import annotations

import pytest
import torch

from glmc.backends.kunlun import limits
from glmc.errors import LoweringError
from glmc.lowering.target import TOKENS, fixed
from glmc_runtime.format.extent import Extent
from tests.backends.kunlun.harness import (
    DTYPES,
    PROFILES,
    Bench,
    Counts,
    close,
    options,
    random,
    reference,
    tokens_by,
)

ROWS = 5
anywhere = pytest.mark.parametrize("profile", PROFILES)
any_dtype = pytest.mark.parametrize("dtype", DTYPES)


def bench(profile: str = "P-A", dtype: torch.dtype = torch.float32, rows: int = ROWS) -> Bench:
    return Bench(options(profile, dtype), Counts(rows, rows), Counts(rows, rows))


@anywhere
@any_dtype
def test_embedding_and_select_rows(profile: str, dtype: torch.dtype) -> None:
    at = bench(profile, dtype)
    table, ids = random(11, 8, dtype=dtype), torch.tensor([3, 0, 10, 3, 7])
    weight = at.packed("embed", table)
    token_ids = at.step("token_ids", ids, (TOKENS,))
    hidden = at.lower(
        "embedding", {"token_ids": token_ids, "weight": weight}, [(tokens_by(8), dtype)]
    )[0]
    chosen = torch.tensor([4, 0, 1, 2, 2])
    rows = at.step("last_rows", chosen, (Extent.of(sequences=1),))
    shape = (Extent.of(sequences=1), fixed(8))
    last = at.lower("select_rows", {"x": hidden, "rows": rows}, [(shape, dtype)])[0]
    at.run()
    assert torch.equal(at.read(last), table[ids][chosen])


@anywhere
@any_dtype
@pytest.mark.parametrize("biased", [False, True])
def test_linear(profile: str, dtype: torch.dtype, biased: bool) -> None:
    at = bench(profile, dtype)
    x, w = random(ROWS, 16, dtype=dtype), random(24, 16, dtype=dtype, seed=1)
    b = random(24, dtype=dtype, seed=2) if biased else None
    out = at.lower(
        "linear",
        {
            "x": at.tensor("x", x, tokens_by(16)),
            "weight": at.packed("w", w),
            "bias": None if b is None else at.packed("b", b),
        },
        [(tokens_by(24), dtype)],
    )[0]
    calls = at.run()
    close(at.read(out), reference("linear", x=x, weight=w, bias=b))
    assert calls == {"kunlun_ops.matmul" if profile == "P-C" else "aten.linear": 1}
    if profile == "P-C" and biased and dtype != torch.float32:
        assert at.weights["b.float32"][1].dtype is torch.float32


@anywhere
@pytest.mark.parametrize("rows", [1, 2])
def test_a_float16_head_is_cut_along_the_vocabulary(profile: str, rows: int) -> None:
    """248320 columns in one product are wrong on the hardware, and so in the emulator's matmul."""
    vocabulary = 248320
    at = bench(profile, torch.float16, rows)
    x = random(rows, 2, dtype=torch.float16)
    w = random(vocabulary, 2, dtype=torch.float16, seed=1)
    out = at.lower(
        "linear",
        {"x": at.tensor("x", x, tokens_by(2)), "weight": at.packed("head", w), "bias": None},
        [(tokens_by(vocabulary), torch.float16)],
        module="lm_head",
    )[0]
    calls = at.run()
    close(at.read(out), reference("linear", x=x, weight=w, bias=None))
    products = [call for call in at.calls if "out" in call.writes][:-1]
    widths = [at.buffers[call.arguments["out"].buffer][0][1].constant for call in products]
    assert sum(widths) == vocabulary and max(widths) <= limits.FLOAT16_COLUMNS
    assert calls["aten.concat_columns"] == 1 and "cut in 4" in at.remarks[0]


def test_a_float16_head_keeps_its_bias_when_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FLOAT16_COLUMNS", 16)
    x, w = random(ROWS, 8, dtype=torch.float16), random(40, 8, dtype=torch.float16, seed=1)
    b = random(40, dtype=torch.float16, seed=2)
    for profile in PROFILES:
        at = bench(profile, torch.float16)
        given = {"x": at.tensor("x", x, tokens_by(8)), "weight": at.packed("w", w)}
        out = at.lower(
            "linear", {**given, "bias": at.packed("b", b)}, [(tokens_by(40), torch.float16)]
        )[0]
        at.run()
        close(at.read(out), reference("linear", x=x, weight=w, bias=b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_are_not_cut(dtype: torch.dtype) -> None:
    at = bench("P-A", dtype)
    w = torch.zeros(70000, 2, dtype=dtype)
    x = at.tensor("x", random(ROWS, 2, dtype=dtype), tokens_by(2))
    at.lower(
        "linear", {"x": x, "weight": at.packed("w", w), "bias": None}, [(tokens_by(70000), dtype)]
    )
    assert [call.function for call in at.calls] == ["aten.linear"] and not at.remarks


def test_only_a_packed_weight_can_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FLOAT16_COLUMNS", 16)
    at = bench("P-A", torch.float16)
    x = at.tensor("x", random(ROWS, 8, dtype=torch.float16), tokens_by(8))
    w = at.tensor("w", random(40, 8, dtype=torch.float16), (fixed(40), fixed(8)))
    with pytest.raises(LoweringError, match="only a packed weight"):
        at.lower("linear", {"x": x, "weight": w, "bias": None}, [(tokens_by(40), torch.float16)])


@anywhere
@any_dtype
def test_rms_norm_of_rows_and_of_heads(profile: str, dtype: torch.dtype) -> None:
    for shape in ((16,), (3, 32)):
        at = bench(profile, dtype)
        x, w = random(ROWS, *shape, dtype=dtype), random(shape[-1], dtype=dtype, seed=1)
        extents = (TOKENS, *(fixed(size) for size in shape))
        given = {"x": at.tensor("x", x, extents), "weight": at.packed("w", w), "eps": 1e-5}
        out = at.lower("rms_norm", given, [(extents, dtype)])[0]
        assert at.run() == {"kunlun_ops.rmsnorm": 1}
        close(at.read(out), reference("rms_norm", x=x, weight=w, eps=1e-5))


@anywhere
@any_dtype
@pytest.mark.parametrize("live", [(), ("x",), ("residual",), ("x", "residual")])
def test_add_rms_norm_is_in_place_but_keeps_live_values(
    profile: str, dtype: torch.dtype, live: tuple[str, ...]
) -> None:
    at = bench(profile, dtype)
    x, residual = random(ROWS, 16, dtype=dtype), random(ROWS, 16, dtype=dtype, seed=1)
    w = random(16, dtype=dtype, seed=2)
    values = {"x": at.tensor("x", x, tokens_by(16))}
    values["residual"] = at.tensor("residual", residual, tokens_by(16))
    at.live = {values[name].name for name in live}
    normed, total = at.lower(
        "add_rms_norm",
        {**values, "weight": at.packed("w", w), "eps": 1e-6},
        [(tokens_by(16), dtype)] * 2,
    )
    calls = at.run()
    expected = reference("add_rms_norm", x=x, residual=residual, weight=w, eps=1e-6)
    close(at.read(normed), expected[0])
    close(at.read(total), expected[1])
    assert calls["aten.copy"] == len(live) and calls["kunlun_ops.add_rmsnorm"] == 1
    for name, data in (("x", x), ("residual", residual)):
        assert (name in live) == torch.equal(at.read(values[name]), data)


def test_add_rms_norm_of_a_value_and_itself_does_not_share_memory() -> None:
    at = bench()
    x, w = random(ROWS, 16), random(16, seed=1)
    value = at.tensor("x", x, tokens_by(16))
    given = {"x": value, "residual": value, "weight": at.packed("w", w), "eps": 1e-5}
    normed, total = at.lower("add_rms_norm", given, [(tokens_by(16), torch.float32)] * 2)
    at.run()
    expected = reference("add_rms_norm", x=x, residual=x, weight=w, eps=1e-5)
    close(at.read(normed), expected[0])
    close(at.read(total), expected[1])


@anywhere
@any_dtype
def test_swiglu_and_silu_mul(profile: str, dtype: torch.dtype) -> None:
    at = bench(profile, dtype)
    both = random(ROWS, 32, dtype=dtype)
    gate, up = both.chunk(2, -1)
    merged = at.tensor("both", both, tokens_by(32))
    apart = {
        "gate": at.tensor("gate", gate.contiguous(), tokens_by(16)),
        "up": at.tensor("up", up.contiguous(), tokens_by(16)),
    }
    first = at.lower("swiglu", {"x": merged}, [(tokens_by(16), dtype)])[0]
    assert not at.remarks
    second = at.lower("silu_mul", apart, [(tokens_by(16), dtype)])[0]
    assert at.run() == {"kunlun_ops.swiglu": 2, "aten.concat_columns": 1}
    close(at.read(first), reference("swiglu", x=both))
    close(at.read(second), reference("silu_mul", gate=gate, up=up))
    assert "one copy more" in at.remarks[0]


@pytest.mark.parametrize(("dtype", "width"), [(torch.bfloat16, 12), (torch.float32, 6)])
def test_swiglu_refuses_rows_that_are_not_aligned(dtype: torch.dtype, width: int) -> None:
    at = bench("P-A", dtype)
    x = at.tensor("x", random(ROWS, 2 * width, dtype=dtype), tokens_by(2 * width))
    with pytest.raises(LoweringError, match="aligned rows") as refusal:
        at.lower("swiglu", {"x": x}, [(tokens_by(width), dtype)])
    assert "24 bytes" in str(refusal.value) and "multiple of 16" in str(refusal.value)


@anywhere
@any_dtype
def test_shared_expert(profile: str, dtype: torch.dtype) -> None:
    at = bench(profile, dtype)
    given = {
        "x": random(ROWS, 16, dtype=dtype),
        "gate_up": random(32, 16, dtype=dtype, seed=1) / 4,
        "down": random(16, 16, dtype=dtype, seed=2) / 4,
        "routed": random(ROWS, 16, dtype=dtype, seed=3),
    }
    values = {
        "x": at.tensor("x", given["x"], tokens_by(16)),
        "gate_up": at.packed("gate_up", given["gate_up"]),
        "down": at.packed("down", given["down"]),
        "routed": at.tensor("routed", given["routed"], tokens_by(16)),
    }
    out = at.lower("shared_expert", values, [(tokens_by(16), dtype)])[0]
    calls = at.run()
    close(at.read(out), reference("shared_expert", **given))
    assert calls["kunlun_ops.swiglu"] == calls["aten.add"] == 1
    assert calls["aten.linear"] + calls["kunlun_ops.matmul"] == 2
