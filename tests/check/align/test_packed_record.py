"""A packed record says all that the record says, in fewer bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from glmc.check.align.readers.open import open_record
from glmc_runtime.format.tensor_key import parse_key
from glmc_runtime.record.h5_file import H5File
from glmc_runtime.record.keep import Keep
from tests.check.align.packed_record import pack

KEY = "model.layers.{}.mlp.Glm4MoeMLP.0.forward_{}.0"
FACTS = {"node": "mlp#linear", "passes": ["canonical"], "call": 3, "layer": 0, "source": "m.py:1"}


def key(layer: int, side: str) -> Any:
    made = parse_key(KEY.format(layer, side))
    assert made is not None
    return made


def record(path: Path, keep: Keep) -> Path:
    """A prefill of five tokens and a step of decode; some tensors have two names."""
    prompts = [[1, 2, 3], [4, 5]]
    with H5File(path, keep) as sink:
        sink.describe({"prompts": prompts, "tokens": [[6], [7]], "emulated": False})
        for step, lengths in enumerate(([3, 2], [1, 1])):
            generator = torch.Generator().manual_seed(step)
            sink.begin(step, lengths)
            wide = torch.randn(1, sum(lengths), 512, generator=generator).bfloat16()
            sink.write([key(1, "output"), key(0, "input")], wide, FACTS)
            sink.write([key(0, "output")], torch.arange(sum(lengths)), {"phase": "prefill"})
            sink.link(key(1, "input"), step, key(0, "output"))
            sink.write([key(2, "output")], torch.tensor(2.5), {})
    return path


def attributes(thing: Any) -> list[tuple[str, type, list[Any]]]:
    return [(name, type(each), np.asarray(each).tolist()) for name, each in thing.attrs.items()]


def require_equal(made: Path, expected: Path) -> None:
    """By our reader, and as anyone's h5py reads it."""
    ours, theirs = open_record(made), open_record(expected)
    assert list(ours.facts.items()) == list(theirs.facts.items())
    for one, other in zip(ours.tensors(), theirs.tensors(), strict=True):
        assert one.load is not None and other.load is not None
        assert torch.equal(one.load(), other.load())
        said = [(each.step, each.order, each.key, each.dtype, each.shape) for each in (one, other)]
        assert said[0] == said[1]
        assert (one.rows, one.statistics, one.facts) == (other.rows, other.statistics, other.facts)
    with h5py.File(made) as one, h5py.File(expected) as other:
        assert list(one) == list(other) and attributes(one) == attributes(other)
        for step in one:
            assert list(one[step]) == list(other[step])
            for name, data in one[step].items():
                assert data.dtype == other[step][name].dtype
                assert np.array_equal(data[()], other[step][name][()])
                assert attributes(data) == attributes(other[step][name])


@pytest.mark.parametrize("kept", ["all", "rows:2"])
def test_nothing_is_lost(kept: str, tmp_path: Path) -> None:
    source = record(tmp_path / "run.h5", Keep.parse(kept))
    pack(source, tmp_path / "packed.h5")
    require_equal(tmp_path / "packed.h5", source)
    assert (tmp_path / "packed.h5").stat().st_size < 0.8 * source.stat().st_size


def test_fewer_rows_are_those_of_a_record_with_that_option(tmp_path: Path) -> None:
    source = record(tmp_path / "run.h5", Keep.parse("rows:2"))
    pack(source, tmp_path / "packed.h5", Keep.parse("rows:1"))
    require_equal(tmp_path / "packed.h5", record(tmp_path / "fewer.h5", Keep.parse("rows:1")))


def test_rows_that_were_not_stored_are_none_to_keep(tmp_path: Path) -> None:
    source = record(tmp_path / "run.h5", Keep.parse("rows:1"))
    with pytest.raises(ValueError, match="not in list"):
        pack(source, tmp_path / "packed.h5", Keep.parse("rows:3"))


def test_names_of_one_tensor_stay_one(tmp_path: Path) -> None:
    pack(record(tmp_path / "run.h5", Keep()), tmp_path / "packed.h5")
    with h5py.File(tmp_path / "packed.h5") as file:
        assert file["0"][KEY.format(1, "output")] == file["0"][KEY.format(0, "input")]
        assert file["0"][KEY.format(1, "input")] == file["0"][KEY.format(0, "output")]
