"""The calibration prompt: given as a text or in a file, ours, or fixed ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glmc.cli.compile_command import prompt_of
from glmc.config import CompileOptions
from glmc.errors import UsageError
from glmc.job import Job, read_job
from glmc.range_check.prompt import calibration_prompt
from glmc_runtime.errors import RequestError
from tests.range_check.altered import DENSE, checkpoint

TINY = Path(__file__).parents[2] / "models" / "tiny-dense"
AUTO = CompileOptions(target="xpu", dtype="auto")


def job(**changes: object) -> Job:
    return read_job(TINY, replace(AUTO, **changes))  # type: ignore[arg-type]


def test_our_own_text_is_encoded_by_the_tokenizer() -> None:
    pytest.importorskip("tokenizers")
    prompt = calibration_prompt(job())
    tokens = prompt.token_ids.shape[1]
    assert prompt.token_ids.dtype == torch.int64 and tokens > 64
    assert prompt.description == f"{tokens} tokens of our own text"


def test_a_given_text_is_cut_to_the_context() -> None:
    pytest.importorskip("tokenizers")
    prompt = calibration_prompt(job(calibration_prompt="one two three " * 99, max_context=32))
    assert prompt.token_ids.shape == (1, 32)
    assert prompt.description == "32 tokens of the text that was given"


def test_an_empty_text_is_refused() -> None:
    pytest.importorskip("tokenizers")
    with pytest.raises(UsageError, match="is empty"):
        calibration_prompt(job(calibration_prompt=""))


def test_without_a_tokenizer_the_ids_are_the_same_each_time(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model", DENSE)
    first, second = (calibration_prompt(read_job(model, AUTO)) for _ in range(2))
    assert torch.equal(first.token_ids, second.token_ids)
    assert first.token_ids.shape == (1, 128) and int(first.token_ids.max()) < 96


def test_the_option_is_a_text_or_the_name_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("Was ist das?", encoding="utf-8")
    assert prompt_of(str(file)) == "Was ist das?"
    assert prompt_of("Was ist das?") == "Was ist das?"
    assert prompt_of("long " * 999) == "long " * 999
    assert prompt_of(None) is None
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="no UTF-8"):
        prompt_of(str(file))
