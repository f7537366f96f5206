"""The benchmark of decode steps with quick models: it says nothing of speed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bench.cpu import decode
from bench.cpu.peers import LLAMA_CPP, Source, eager, ours
from bench.cpu.peers.llama_cpp import LIBRARY, lacking
from bench.cpu.work import random_tokens
from bench.models import model_of
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc.weights.random_checkpoint import write_random_checkpoint

_NAMED = os.environ.get("GLMC_PEER_LLAMA_CPP")
LLAMA = Path(_NAMED) if _NAMED else None
QUICK = ["--quick", "--threads", "1", "--starts", "1", "--rounds", "2", "--prefill-rounds", "1"]


def test_without_a_folder_llama_cpp_is_left_out_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decode.present(["eager", LLAMA_CPP, "glmc"], None) == ["eager", "glmc"]
    assert "llama.cpp is left out: no folder is named by --llama-cpp" in capsys.readouterr().err
    assert decode.present([LLAMA_CPP], tmp_path) == []
    assert f"{tmp_path} has no llama_cpp/llama_cpp.py and no" in capsys.readouterr().err
    for part in ("llama_cpp/llama_cpp.py", "vendor/llama.cpp/conversion/base.py", LIBRARY):
        assert str(part).removesuffix("/base.py") in str(lacking(tmp_path))
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).touch()
    assert decode.present([LLAMA_CPP], tmp_path) == [LLAMA_CPP]
    assert decode.present(["eager"], None) == ["eager"] and not capsys.readouterr().err


def test_wrong_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    peers = (["--peers", "glmc,nobody"], ["--peers", "before"])
    for words in (*peers, ["--models", "dens"], ["--cpu-clock"]):
        with pytest.raises(SystemExit):
            decode.arguments([*words, "--threads", "2"])
        assert "error" in capsys.readouterr().err
    chosen = decode.arguments(["--before", "there", "--batches", "2", "--prefills", ""])
    assert chosen.peers == ["eager", "glmc", "llama.cpp", "before"]
    assert [work.title for work in decode.works(chosen)] == ["decode 2"]


def test_eager_and_ours_answer_alike(tmp_path: Path) -> None:
    model = model_of("dense", quick=True)
    write_random_checkpoint(tmp_path / "model", {**model.config, "num_hidden_layers": 1})
    compile_model(tmp_path / "model", tmp_path / "artifact", CompileOptions(dtype="float32"))
    source = Source(tmp_path / "model", tmp_path / "artifact", "float32", 1)
    prompts = random_tokens(0, 2, 12, 4096)
    found = []
    for module in (eager, ours):
        peer = module.load(source)
        sequences, logits = peer.prefill(prompts, 2)
        rows = [logits, *(peer.decode(sequences, tokens) for tokens in ([5, 6], [7, 8]))]
        peer.release(sequences)
        found.append(torch.stack([row.clone() for row in rows]))
        assert peer.version and (peer.hashing is None) == (module is eager)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_a_quick_run_prints_both_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[3]
    words = ["--models", "moe", "--batches", "1,2", "--prefills", "16", "--steps", "2"]
    asked = [*QUICK, *words, "--peers", "eager,glmc", "--before", str(root)]
    assert decode.main([*asked, "--keep", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    for text in ("decode 1", "decode 2", "prefill 16", "glmc / it", "seconds from start"):
        assert text in printed.out
    assert f"before: glmc 0.1.0, torch {torch.__version__}, {root}" in " ".join(printed.out.split())
    assert {path.name for path in tmp_path.iterdir()} >= {"moe", "moe.bfloat16.glmc"}


@pytest.mark.long
def test_all_forms_of_ours_and_of_torch_are_the_same_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["--check", "--dtype", "float32", "--models", "dense"]
    peers = ["--peers", "glmc,eager,torch.compile,AOTInductor"]
    assert decode.main([*QUICK, *asked, *peers]) == 0
    shown = capsys.readouterr().out
    assert "beside eager" in shown and shown.count(" yes ") == 3


@pytest.mark.skipif(
    lacking(LLAMA) is not None, reason="GLMC_PEER_LLAMA_CPP names no built llama.cpp"
)
def test_llama_cpp_computes_the_same_models(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--check", "--dtype", "float32", "--peers", "eager,llama.cpp", "--llama-cpp"]
    assert decode.main([*QUICK, *asked, str(LLAMA)]) == 0
    assert capsys.readouterr().out.count(" yes ") == 2
