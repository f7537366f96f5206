"""The attention that vLLM brings is asked for where the device has it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from glmc_engines.vllm import compat
from glmc_engines.vllm import flash_attention as module
from glmc_engines.vllm.flash_attention import paged_attention


@pytest.mark.parametrize(("version", "device"), [(3, "cuda"), (2, "cuda"), (3, "cpu")])
def test_the_attention_that_vllm_brings(
    monkeypatch: pytest.MonkeyPatch, version: int, device: str
) -> None:
    """Asked for as its own backend asks, where the device has version 3; no GPU is needed."""
    asked: list[dict[str, object]] = []
    brought = SimpleNamespace(
        flash_attn_varlen_func=lambda **options: asked.append(options),
        is_fa_version_supported=lambda wanted: wanted <= version,
    )
    monkeypatch.setitem(sys.modules, "vllm.vllm_flash_attn", brought)
    monkeypatch.setattr(compat, "device_type", lambda: device)
    attend = paged_attention()
    if (version, device) != (3, "cuda"):
        assert attend is None
        return
    assert attend is not None
    tensors = [torch.full((1,), float(number)) for number in range(7)]
    query, keys, values, out, ends, lengths, tables = tensors
    attend(
        query,
        keys,
        values,
        out,
        cu_seqlens_q=ends,
        lengths=lengths,
        block_tables=tables,
        longest_query=5,
        longest_context=9,
        scale=0.5,
    )
    assert asked == [
        {
            "q": query,
            "k": keys,
            "v": values,
            "out": out,
            "cu_seqlens_q": ends,
            "seqused_k": lengths,
            "block_table": tables,
            "max_seqlen_q": 5,
            "max_seqlen_k": 9,
            "softmax_scale": 0.5,
            "causal": True,
            "fa_version": 3,
        }
    ]


@pytest.mark.parametrize(
    ("option", "variable", "offered"),
    [(None, None, True), (3, None, True), (2, None, False), (None, 2, False)],
)
def test_another_version_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, option: int | None, variable: int | None, offered: bool
) -> None:
    """As an option of newer releases or a variable of older ones; what was offered is withdrawn."""
    given: list[object] = []
    library = SimpleNamespace(offer_paged_attention=given.append)
    monkeypatch.setitem(sys.modules, module._LIBRARY, library)
    monkeypatch.setattr(module, "paged_attention", lambda: "attention")
    monkeypatch.setattr(compat, "flash_attention_version", lambda: variable)
    config = SimpleNamespace(attention_config=SimpleNamespace(flash_attn_version=option))
    said = module.offer_flash_attention(config)
    assert given == ["attention" if offered else None]
    assert ("FlashAttention 3" in said) == offered


def test_a_release_without_that_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm.vllm_flash_attn", None)
    monkeypatch.setattr(compat, "device_type", lambda: "cuda")
    assert paged_attention() is None
