"""A release from an index, here a folder of archives: only sources are kept, nothing is run."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from glmc_engines.surface.engines import Spec, in_folder, installed, release
from glmc_engines.surface.fetch import fetched, unpack
from glmc_runtime.errors import FileError, MissingPackageError, RequestError
from tests.engines.surface.made_up import write

FILES = {
    "madeup-1.2/PKG-INFO": "Metadata-Version: 2.1\nName: madeup\nVersion: 1.2\n\nText.\n",
    "madeup-1.2/pyproject.toml": (
        '[build-system]\nrequires = ["nothing-of-this-name"]\n'
        'build-backend = "setuptools.build_meta"\n'
    ),
    "madeup-1.2/setup.py": "raise SystemExit('setup.py was run')",
    "madeup-1.2/madeup/__init__.py": "raise SystemExit('the release was imported')",
    "madeup-1.2/madeup/layers/base.py": "class Layer: ...",
    "madeup-1.2/madeup/kernel.cu": "no source of Python",
    "madeup-1.2/tests/madeup/test_base.py": "import madeup",
}


def source_archive(folder: Path, files: Mapping[str, str] = FILES) -> Path:
    path = folder / "madeup-1.2.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def kept(folder: Path) -> list[str]:
    files = (each for each in folder.rglob("*") if each.is_file())
    return sorted(each.relative_to(folder).as_posix() for each in files)


def test_pip_downloads_it_and_nothing_of_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index").mkdir()
    source_archive(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    found = release(Spec.parse("madeup==1.2"), tmp_path / "cache")
    assert kept(tmp_path / "cache") == [
        "madeup-1.2/madeup/__init__.py",
        "madeup-1.2/madeup/layers/base.py",
    ]
    assert (found.version, found.folder) == ("1.2", tmp_path / "cache" / "madeup-1.2")
    # From now on the cache has it.
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert release(Spec.parse("madeup==1.2"), tmp_path / "cache") == found


def test_a_version_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glmc_engines.surface.fetch._run", lambda *_: "no matching distribution")
    with pytest.raises(FileError, match="could not be downloaded") as caught:
        fetched("madeup", "9.9", tmp_path)
    assert caught.value.found == "no matching distribution"
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_is_unpacked_too(tmp_path: Path) -> None:
    path = tmp_path / "madeup-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("madeup/__init__.py", "")
        wheel.writestr("madeup/_c.so", "")
        wheel.writestr("madeup-1.2.dist-info/METADATA", "")
    unpack(path, "madeup", tmp_path / "out")
    assert kept(tmp_path / "out") == ["madeup/__init__.py"]


def test_an_archive_can_not_write_elsewhere(tmp_path: Path) -> None:
    path = source_archive(tmp_path, {"../madeup/x.py": "", "/madeup/y.py": ""})
    with pytest.raises(FileError, match="no package 'madeup'"):
        unpack(path, "madeup", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_tells_its_version(tmp_path: Path) -> None:
    write({"python/madeup/_version.py": "__version__ = version = '1.2.dev1'"}, tmp_path)
    assert in_folder("madeup", tmp_path).version == "1.2.dev1"
    (tmp_path / "python" / "madeup-1.3.dist-info").mkdir()
    assert in_folder("madeup", tmp_path).version == "1.3"
    with pytest.raises(RequestError, match="no package 'other'"):
        in_folder("other", tmp_path)


def test_what_is_installed_here_is_found_without_importing_it(tmp_path: Path) -> None:
    found = installed("pytest")
    assert found is not None and found.version == pytest.__version__
    assert release(Spec("pytest", pytest.__version__), tmp_path) == found
    with pytest.raises(MissingPackageError, match="not installed"):
        release(Spec("surely-not-installed"), tmp_path)


@pytest.mark.parametrize("text", ["", "vllm=0.33.0", "vllm==", "vllm@", "vllm>=1", "==1"])
def test_what_names_no_release(text: str) -> None:
    with pytest.raises(RequestError, match="names no release"):
        Spec.parse(text)


def test_specifications() -> None:
    assert Spec.parse("vllm") == Spec("vllm")
    assert Spec.parse("vllm==0.33.0") == Spec("vllm", "0.33.0")
    assert Spec.parse("vllm@some/folder") == Spec("vllm", "", "some/folder")
