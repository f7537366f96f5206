"""Datasets that want to be larger than they are, and honest ones of any size."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from glmc.check.align.readers import h5_limits
from glmc.check.align.readers.h5_limits import promised_too_much
from glmc.check.align.readers.open import open_record
from glmc_runtime.errors import RecordError

MIB = 1 << 20
NAME = "a.Linear.0.forward_output.0"


def made(path: Path, make: Any) -> str:
    """What is said of the dataset that ``make`` makes of a group and a name."""
    with h5py.File(path, "w") as file:
        make(file.create_group("0"))
    with h5py.File(path) as file:
        return promised_too_much(file["0"][NAME])


def whole(group: Any, **how: Any) -> None:
    group.create_dataset(NAME, data=np.zeros((1024, 256), "f4"), **how)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"chunks": True},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf"},
    ],
    ids=str,
)
def test_an_honest_one_is_read_however_it_is_stored(tmp_path: Path, how: dict[str, Any]) -> None:
    assert not made(tmp_path / "a.h5", lambda group: whole(group, **how))


def test_what_is_all_there_may_be_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As gigabytes are, where the limit is 64 Mi elements."""
    monkeypatch.setattr(h5_limits, "MOST_ELEMENTS", 1000)
    for how in ({}, {"chunks": (512, 256)}):
        assert not made(tmp_path / "a.h5", lambda group, how=how: whole(group, **how))
    packed = made(tmp_path / "a.h5", lambda group: whole(group, compression="gzip"))
    assert packed.startswith("262,144 elements of ")


def sparse(group: Any) -> None:
    """One chunk of a terabyte is there."""
    data = group.create_dataset(NAME, (1 << 40,), "u1", chunks=(1 << 16,))
    data[:4] = 1


def one_chunk(group: Any) -> None:
    """Ten elements, in a chunk of a gigabyte."""
    data = group.create_dataset(
        NAME, (10,), "u1", chunks=(1 << 30,), maxshape=(None,), compression="gzip"
    )
    data.id.write_direct_chunk((0,), zlib.compress(bytes(10)))


def twice(group: Any) -> None:
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((1024,))
    created.set_deflate(9)
    created.set_deflate(9)
    space = h5py.h5s.create_simple((1024,))
    h5py.h5d.create(group.id, NAME.encode(), h5py.h5t.NATIVE_UINT8, space, created)
    group[NAME][:] = 1


def inflated(group: Any) -> None:
    """A chunk of 4 KB that inflates to hundreds of MiB, as libhdf5 does without a question."""
    data = group.create_dataset(NAME, (1024,), "f4", chunks=(1024,), compression="gzip")
    packer = zlib.compressobj(9)
    pieces = [packer.compress(bytes(16 * MIB)) for _ in range(36)]
    data.id.write_direct_chunk((0,), b"".join(pieces) + packer.flush())


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (sparse, "1,099,511,627,776 elements of "),
        (one_chunk, "chunks of 1,073,741,824 elements"),
        (twice, "chunks that are packed more than once"),
        (inflated, "a chunk that unpacks to more than its 4,096 bytes"),
    ],
)
def test_a_small_file_that_wants_to_be_large_is_refused(
    tmp_path: Path, make: Any, found: str
) -> None:
    path = tmp_path / "a.h5"
    assert made(path, make).startswith(found)
    assert path.stat().st_size < MIB
    (tensor,) = open_record(path).tensors()
    assert tensor.load is not None
    with pytest.raises(RecordError, match="larger than what is stored") as caught:
        tensor.load()
    assert caught.value.found.startswith(found) and caught.value.remedy
