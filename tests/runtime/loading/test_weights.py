"""Weights: those of a file that changes under a session, and those that the caller gives."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import glmc_runtime
from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.phases import PREFILL
from glmc_runtime.generate.session import Session
from glmc_runtime.loading import weights
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.loading.weights import load_weights
from glmc_runtime.replay.weight_watch import WeightWatch
from tests.runtime.toy import reference_greedy

Weights = dict[str, torch.Tensor]
CPU = torch.device("cpu")


@pytest.fixture
def own(toy_path: Path) -> Weights:
    loaded = load_weights(load_artifact(toy_path), CPU)
    return {name: tensor.clone() for name, tensor in loaded.items()}


def test_the_given_tensors_are_those_that_are_read(toy_path: Path, own: Weights) -> None:
    session = glmc_runtime.load(toy_path, weights=own)
    (first,) = session.generate([[3, 14, 15]], max_new_tokens=6, ignore_eos=True)
    assert first.tokens == reference_greedy([3, 14, 15], 6)
    for tensor in own.values():
        tensor.zero_()
    (second,) = session.generate([[3, 14, 15]], max_new_tokens=6, ignore_eos=True)
    assert second.tokens == [0] * 6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda own, name: own.pop(name), "weights are missing"),
        (lambda own, name: own.update({name: own[name].double()}), "is not what the manifest says"),
        (lambda own, name: own.update({name: own[name][:1]}), "is not what the manifest says"),
        (lambda own, name: own.update({name: own[name].t()}), "can't be used in place"),
        (lambda own, name: own.update({name: own[name].to("meta")}), "can't be used in place"),
    ],
)
def test_refuses(
    toy_path: Path, own: Weights, change: Callable[[Weights, str], object], reason: str
) -> None:
    name = next(name for name, tensor in own.items() if tensor.dim() == 2)
    change(own, name)
    with pytest.raises(ArtifactError, match=reason):
        glmc_runtime.load(toy_path, weights=own)


FILE = "weights/all.safetensors"


@pytest.fixture
def copy(toy_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_path, tmp_path / "copy"))


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of any size stay mapped."""
    monkeypatch.setattr(weights, "COPIED_BYTES", 0)


def tokens(session: Session) -> list[int]:
    (completion,) = session.generate([[3, 14, 15]], max_new_tokens=6, ignore_eos=True)
    return completion.tokens


def overwrite(root: Path) -> None:
    """As ``cp`` does: the same file, other bytes."""
    data = (root / FILE).read_bytes()
    (root / FILE).write_bytes(data[:4000] + bytes(len(data) - 4000))


def overwrite_and_put_the_time_back(root: Path) -> None:
    found = (root / FILE).stat()
    time.sleep(0.02)  # a tick of the system's clock
    overwrite(root)
    os.utime(root / FILE, ns=(found.st_atime_ns, found.st_mtime_ns))


def overwrite_behind_a_new_mode(root: Path) -> None:
    """A mode moves the time of the last change as well, and is no reason to believe the rest."""
    overwrite_and_put_the_time_back(root)
    (root / FILE).chmod(0o640)


def cut(root: Path) -> None:
    os.truncate(root / FILE, 4096)


def lengthen(root: Path) -> None:
    with (root / FILE).open("ab") as file:
        file.write(b"more")


CHANGES = (
    overwrite,
    overwrite_and_put_the_time_back,
    overwrite_behind_a_new_mode,
    cut,
    lengthen,
)


@pytest.mark.parametrize("change", CHANGES)
def test_small_weights_are_copies(copy: Path, change: Callable[[Path], None]) -> None:
    session = glmc_runtime.load(copy)
    change(copy)
    assert tokens(session) == reference_greedy([3, 14, 15], 6)


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("steps", [0, 1])
def test_a_change_of_mapped_weights_is_an_error(
    copy: Path, change: Callable[[Path], None], steps: int
) -> None:
    time.sleep(0.02)  # the copy's own time is past
    session = glmc_runtime.load(copy)
    for _ in range(steps):
        tokens(session)
    change(copy)
    for _ in range(2):
        with pytest.raises(ArtifactError, match="weights changed on disk") as caught:
            tokens(session)
        assert caught.value.place == FILE


@pytest.mark.usefixtures("mapped")
def test_no_token_is_handed_out_of_a_step_in_which_they_changed(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = glmc_runtime.load(copy)
    replay = session._replays[PREFILL.key]
    real = replay._inputs.fill

    def fill(*given: object) -> None:
        real(*given)  # type: ignore[arg-type]
        overwrite(copy)

    monkeypatch.setattr(replay._inputs, "fill", fill)
    sequence = session.sequence([3, 14, 15])
    with pytest.raises(ArtifactError, match="weights changed on disk"):
        session.prefill([sequence])
    assert sequence.cached == 0


def put_another_in_its_place(root: Path) -> None:
    (root / "new").write_bytes(b"another")
    (root / "new").replace(root / FILE)


def remove(root: Path) -> None:
    shutil.rmtree(root)


def make_read_only(root: Path) -> None:
    (root / FILE).chmod(0o444)


def link(root: Path) -> None:
    os.link(root / FILE, root.parent / "second")


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize("change", [put_another_in_its_place, remove, make_read_only, link])
def test_what_leaves_the_mapped_bytes_alone_is_no_error(
    copy: Path, change: Callable[[Path], None]
) -> None:
    session = glmc_runtime.load(copy)
    change(copy)
    for _ in range(2):
        assert tokens(session) == reference_greedy([3, 14, 15], 6)


@pytest.mark.usefixtures("mapped")
def test_a_change_after_a_harmless_one_is_seen(copy: Path) -> None:
    session = glmc_runtime.load(copy)
    make_read_only(copy)
    tokens(session)
    time.sleep(0.02)
    (copy / FILE).chmod(0o644)
    tokens(session)
    overwrite(copy)
    with pytest.raises(ArtifactError, match="weights changed on disk"):
        tokens(session)


def test_a_watch_costs_little_and_closes_its_files(toy_path: Path) -> None:
    watch = WeightWatch()
    with load_artifact(toy_path).files.hashed_file(FILE) as (descriptor, state):
        for _ in range(10):
            watch.add(FILE, descriptor, state)
    own = list(watch._states)
    assert len(own) == 10
    watch.check()
    started = time.perf_counter()
    for _ in range(100):
        watch.check()
    assert (time.perf_counter() - started) / 1000 < 50e-6  # for each file; 1 to 4 us
    del watch
    for descriptor in own:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_a_change_between_hash_and_use_is_refused(
    copy: Path, change: Callable[[Path], None], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "COPIED_BYTES", limit)
    time.sleep(0.02)

    def when_all_was_read(done: int, total: int) -> None:
        if done == total:
            change(copy)

    with pytest.raises(ArtifactError, match=r"changed while|another size"):
        glmc_runtime.load(copy, progress=when_all_was_read)


def test_another_file_of_the_same_size_is_not_what_was_hashed(copy: Path) -> None:
    def replace(done: int, total: int) -> None:
        if done == total:
            data = (copy / FILE).read_bytes()
            (copy / "new").write_bytes(data[:4000] + bytes(len(data) - 4000))
            (copy / "new").replace(copy / FILE)

    with pytest.raises(ArtifactError, match="changed while the artifact was loaded"):
        glmc_runtime.load(copy, progress=replace)


def test_without_names_of_descriptors_the_path_serves(
    toy_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on systems that have no /proc."""
    monkeypatch.setattr(weights, "_path_of", lambda descriptor, path: str(path))
    assert tokens(glmc_runtime.load(toy_path)) == reference_greedy([3, 14, 15], 6)
