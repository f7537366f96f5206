"""Options of a command that records, and what they come to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import pytest

from glmc_runtime.errors import RequestError
from glmc_runtime.record.flags import RECORD_OPTIONS, output_of, record_options
from glmc_runtime.record.options import RecordOptions


def encode(text: str) -> list[int]:
    return list(text.encode())


def options(**values: Any) -> SimpleNamespace:
    """Options as a command has them, each with its default."""
    return SimpleNamespace(**{**{each.name: each.default for each in RECORD_OPTIONS}, **values})


def parsed(**values: Any) -> RecordOptions:
    return record_options(options(**values), encode)


@pytest.fixture
def record(tmp_path: Path) -> str:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update(tool="glmc", prompts="[[1, 2], [3]]", tokens="[[4, 5], [6, 7]]")
    return str(path)


def test_prompts_are_texts_or_ids() -> None:
    assert parsed(prompt=["ab", "c"]) == RecordOptions(((97, 98), (99,)))
    assert parsed(ids="1,2;3, 4", steps=0) == RecordOptions(((1, 2), (3, 4)), steps=0)


def test_a_record_gives_prompts_and_tokens(record: str) -> None:
    run = ((1, 2), (3,)), ((4, 5), (6, 7))
    assert parsed(like=record) == RecordOptions(run[0], 2, run[1])
    assert parsed(like=record, steps=1) == RecordOptions(run[0], 1, run[1])


def test_what_is_recorded_is_chosen() -> None:
    chosen = parsed(ids="1", layers="0,3-5", modules=["*.mlp*"], level="op")
    assert (chosen.layers, chosen.level) == ({0, 3, 4, 5}, "op")
    assert chosen.wants("model.layers.3.mlp.gate", 3)
    assert not chosen.wants("model.layers.1.mlp", 1)
    assert not chosen.wants("model.layers.3.self_attn", 3)
    assert not chosen.wants("model.mlp", None)
    assert parsed(ids="1").wants("", None)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "--prompt, --ids and --like"),
        ({"ids": "1", "prompt": ["a"]}, "--prompt and --ids"),
        ({"ids": "1,x"}, "--ids"),
        ({"ids": "1;;2"}, "--ids"),
        ({"ids": "1", "steps": -1}, "--steps"),
        ({"ids": "1", "layers": "a"}, "--layers"),
        ({"ids": "1", "level": "modul"}, "did you mean 'module'"),
        ({"prompt": ["a", ""]}, "no tokens"),
    ],
)
def test_what_contradicts_itself_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        parsed(**values)
    assert words in str(caught.value)


def test_a_record_has_no_more_steps_than_it_has_tokens(record: str) -> None:
    with pytest.raises(RequestError, match="--steps"):
        parsed(like=record, steps=3)


def test_a_record_needs_a_file() -> None:
    assert output_of(options(output="run.h5")) == Path("run.h5")
    with pytest.raises(RequestError, match="needs a file"):
        output_of(options())
