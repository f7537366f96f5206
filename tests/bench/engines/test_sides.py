"""What vLLM is told, by the benchmark of the engine and as a peer of the GPU benchmark."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.engines.__main__ import arguments, options_of
from bench.gpu import vllm_side
from bench.models import gpu_model


def of_engines(*more: str) -> dict[str, Any]:
    words = ["--model", "9b", "--artifact", "a", "--output", "o.json", "--batches", "1,16"]
    return options_of(arguments([*words, *more]), Path("checkpoint"))


def of_peer(folder: Path, monkeypatch: pytest.MonkeyPatch, **more: object) -> dict[str, Any]:
    sent: list[dict[str, Any]] = []
    side = SimpleNamespace(
        connection=SimpleNamespace(send=sent.append),
        wait=lambda: None,
        ask=lambda *_, **__: {},
        end=lambda: None,
    )
    monkeypatch.setattr(vllm_side, "start", lambda *_: side)
    sizes = vllm_side.Sizes((1, 16), (64,), 96)
    log = folder / "vllm.log"
    with vllm_side.vllm_side(gpu_model("9b", True), sizes, folder, log, False, more):
        return sent[0]


def test_both_tell_vllm_the_same_but_for_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, engine = of_peer(tmp_path, monkeypatch), of_engines()
    assert peer.pop("vocabulary") == 512
    assert peer.keys() == engine.keys()
    sizes = {"model", "max_model_len", "max_num_batched_tokens", "kv_cache_memory_bytes"}
    assert {name for name in peer if peer[name] != engine[name]} <= sizes


def test_few_sequences_leave_vllm_all_of_its_device_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, engine = of_peer(tmp_path, monkeypatch), of_engines()
    assert peer["max_num_seqs"] == engine["max_num_seqs"] == 256
    assert engine["max_num_batched_tokens"] >= 256
    assert of_engines("--batches", "512")["max_num_seqs"] == 512
    assert of_engines("--batches", "")["max_num_seqs"] == 256


def test_what_is_asked_for_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_engines("--sequences", "32")["max_num_seqs"] == 32
    assert of_peer(tmp_path, monkeypatch, enforce_eager=True)["enforce_eager"] is True
