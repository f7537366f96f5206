"""Options of a compile by kind: what is plainly meant is taken, anything else has a code."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import glmc
import glmc_runtime
from glmc import CompileKeywords, LoadKeywords
from glmc.config import CompileOptions, compile_options
from glmc.errors import UsageError

TINY = Path(__file__).parent.parent / "models" / "tiny-dense"


def test_what_is_plainly_meant_is_taken() -> None:
    found = compile_options(
        {
            "dtype": torch.bfloat16,
            "max_context": np.int64(64),
            "decode_buckets": [1, np.int8(2)],
            "prefill_buckets": 16,
            "passes_off": "rope",
            "pipeline": Path("a/b.yaml"),
            "force": np.True_,
        }
    )
    assert found == CompileOptions(
        dtype="bfloat16",
        max_context=64,
        decode_buckets=(1, 2),
        prefill_buckets=(16,),
        passes_off=("rope",),
        pipeline="a/b.yaml",
        force=True,
    )
    assert type(found.max_context) is int and type(found.decode_buckets[1]) is int


@pytest.mark.parametrize(
    "options",
    [
        {"target": None},
        {"target": b"cpu"},
        {"dtype": 32},
        {"max_context": True},
        {"max_context": 64.0},
        {"max_context": "64"},
        {"block_size": 1.7},
        {"block_size": None},
        {"decode_buckets": "1,2"},
        {"decode_buckets": [1, 2.5]},
        {"decode_buckets": [True]},
        {"decode_buckets": {1, 2}},
        {"prefill_buckets": None},
        {"seed": 0.5},
        {"force": 1},
        {"allow_missing": "no"},
        {"passes_on": [3]},
        {"passes_off": {"rope": 1}},
        {"pipeline": 3},
        {"weights": True},
    ],
    ids=repr,
)
def test_what_is_not_is_refused_by_name(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))) as caught:
        glmc.compile(TINY, tmp_path / "out", **options)
    assert caught.value.code == "GLMC-1001" and caught.value.found
    assert not (tmp_path / "out").exists()


def test_the_package_shows_its_public_names_alone() -> None:
    assert dir(glmc) == sorted(glmc.__all__)


def test_an_unknown_option_names_its_neighbours(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no option 'max_contxt'") as caught:
        glmc.compile(TINY, tmp_path / "out", max_contxt=3)
    assert "max_context" in caught.value.expected


@pytest.mark.parametrize("place", [None, 3, b"out", ["out"]])
def test_models_and_outputs_are_paths(tmp_path: Path, place: Any) -> None:
    with pytest.raises(UsageError, match="model is no path"):
        glmc.compile(place, tmp_path / "out")
    with pytest.raises(UsageError, match="output is no path"):
        glmc.compile(TINY, place)


def test_keywords_of_compile_and_load_are_their_options() -> None:
    assert set(CompileKeywords.__annotations__) == {each.name for each in fields(CompileOptions)}
    parameters = inspect.signature(glmc_runtime.load).parameters
    assert {"path", *LoadKeywords.__annotations__} == set(parameters)
    for name in CompileKeywords.__annotations__:
        assert f"``{name}``" in str(glmc.compile.__doc__)
