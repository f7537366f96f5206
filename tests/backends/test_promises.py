"""What a target promises with ``--deterministic``, and what it refuses by name."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from glmc.backends import target_by_name
from glmc.config import CompileOptions
from glmc.errors import LoweringError, UsageError
from glmc.job import read_job
from tests.docs.markdown import ROOT

TINY = ROOT / "models" / "tiny-dense"


def test_a_target_without_such_kernels_says_so() -> None:
    with pytest.raises(LoweringError, match="cuda has no kernels with such an order") as caught:
        target_by_name("cuda").promising("batch")
    assert caught.value.remedy.startswith("drop --deterministic")


@pytest.mark.parametrize(
    ("target", "promise"), list(itertools.product(["cpu", "xpu"], ["batch", "ranks"]))
)
def test_nothing_that_sums_is_left_to_torch(target: str, promise: str) -> None:
    """An unfused sum or exponential has no rule, and is refused rather than computed otherwise."""
    rules = target_by_name(target).promising(promise).rules
    assert not {"aten.silu", "aten.mean", "aten.pow", "aten.rsqrt"} & set(rules)
    assert {"linear", "moe_ffn", "decode_attention", "prefill_attention"} <= set(rules)
    # Of several ranks: their sums go along a tree, and an embedding only moves numbers.
    assert {"all_reduce", "all_gather", "local_embedding", "local_moe_ffn"} <= set(rules)


@pytest.mark.parametrize("target", ["cpu", "xpu"])
def test_float16_is_refused(target: str) -> None:
    options = CompileOptions(target=target, dtype="float16", deterministic="batch")
    with pytest.raises(LoweringError, match="float16"):
        read_job(TINY, options).require_supported()


def test_another_promise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no way to be deterministic"):
        CompileOptions(deterministic="rank")
