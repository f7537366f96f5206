"""Files with one tensor each, whole, damaged and hostile."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from glmc.check.align.readers.array_files import described, load
from glmc_runtime.errors import RecordError


@pytest.mark.parametrize("dtype", ["f4", ">f4", "f2", "i8", "?", "c8"])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4)])
def test_numpys_files(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    np.save(tmp_path / "a.npy", array)
    name, found = described(tmp_path / "a.npy")
    tensor = load(tmp_path / "a.npy")
    assert found == shape == tuple(tensor.shape) and f"torch.{name}" == str(tensor.dtype)
    assert np.array_equal(tensor.numpy(), array)


def test_transposed_elements_stay_in_their_places(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.save(tmp_path / "a.npy", array)
    assert load(tmp_path / "a.npy").tolist() == array.tolist()


def test_torchs_files(tmp_path: Path) -> None:
    values = torch.randn(2, 3).bfloat16()
    torch.save(values, tmp_path / "a.pt")
    assert described(tmp_path / "a.pt") == ("bfloat16", (2, 3))
    assert torch.equal(load(tmp_path / "a.pt"), values)


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("unpickled",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_code_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    array = np.array([Hostile()], dtype=object)
    np.save("object.npy", array, allow_pickle=True)
    torch.save(Hostile(), "object.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Hostile()))
    for name in ("object.npy", "object.pt", "plain.pt"):
        for read in (described, load):
            with pytest.raises(RecordError, match="can't be read"):
                read(Path(name))
    assert not Path("unpickled").exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((100, 3)))
    torch.save(torch.zeros(100, 3), tmp_path / "a.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "dict.pt")
    for name in ("a.npy", "a.pt"):
        whole = (tmp_path / name).read_bytes()
        for length in (0, 5, 60, 129, len(whole) - 1):
            (tmp_path / f"cut{name}").write_bytes(whole[:length])
            for read in (described, load):
                with pytest.raises(RecordError, match="can't be read"):
                    read(tmp_path / f"cut{name}")
    os.mkfifo(tmp_path / "pipe.npy")
    for name in ("dict.pt", "pipe.npy", "nowhere.npy"):
        with pytest.raises(RecordError, match="can't be read"):
            load(tmp_path / name)


def test_a_header_that_promises_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 60,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(RecordError, match="can't be read"):
        load(path)


def test_an_archive_that_is_packed_is_not_unpacked(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.pt", tmp_path / "packed.pt"
    torch.save(torch.zeros(4 << 20), plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", 8) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert packed.stat().st_size < 1 << 17
    for read in (described, load):
        with pytest.raises(RecordError, match="can't be read") as caught:
            read(packed)
        assert "entries of 16," in caught.value.found and caught.value.remedy


def test_elements_that_are_repeated_are_some_millions_at_most(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(torch.zeros(1).expand(1 << 40), path)
    with pytest.raises(RecordError, match="can't be read") as caught:
        load(path)
    assert "of which 4 are in the file" in caught.value.found
    mask = torch.ones(3, dtype=torch.bool).expand(2, 4, 3)  # as a hook saves one that is shared
    torch.save(mask, path)
    assert torch.equal(load(path), mask)
    torch.save(torch.zeros(2, 3).t(), path)
    assert load(path).shape == (3, 2)
