"""Progress while the files of an artifact are hashed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from glmc_runtime.errors import ArtifactError
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.loading.progress import LARGE, shown_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_loader_counts_every_byte(toy_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    artifact = load_artifact(toy_path, progress=lambda done, total: seen.append((done, total)))
    total = sum(entry.size for entry in artifact.manifest.files.values())
    assert {item[1] for item in seen} == {total}
    done = [item[0] for item in seen]
    assert done == sorted(done)
    assert done[-1] == total
    assert len(done) >= len([entry for entry in artifact.manifest.files.values() if entry.size])
    seen.clear()
    load_artifact(toy_path, verify_hashes=False, progress=lambda *counts: seen.append(counts))
    assert seen == []


def test_a_large_artifact_shows_each_percentage_once() -> None:
    out, total = Terminal(), 4 * LARGE
    with shown_progress("reading", out) as progress:
        assert progress is not None
        for part in range(1001):
            progress(total * part // 1000, total)
    assert out.getvalue().count("reading") == 101
    assert "\rreading   0%\rreading   1%" in out.getvalue()
    assert out.getvalue().endswith("\rreading 100%\r" + " " * 12 + "\r")


def test_after_a_second_there_is_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0.0, 0.5, 2.0, 8.0))
    monkeypatch.setattr("glmc_runtime.loading.progress.perf_counter", lambda: next(times))
    out, total = Terminal(), 4 << 30
    with shown_progress("reading", out) as progress:
        assert progress is not None
        for part in (1, 4, 16):
            progress(total * part // 16, total)
    rate = "reading  25% of 4.0 GiB, 512.0 MiB/s, 6.0 s left"
    end = "reading 100%".ljust(len(rate))
    assert out.getvalue() == f"\rreading   6%\r{rate}\r{end}\r{' ' * len(rate)}\r"


def test_a_small_artifact_shows_nothing() -> None:
    out = Terminal()
    with shown_progress("reading", out) as progress:
        assert progress is not None
        progress(LARGE, LARGE)
        progress(0, 0)
    assert out.getvalue() == ""


def test_no_terminal_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress("reading", io.StringIO()) as progress:
        assert progress is None
    with shown_progress("reading") as progress:
        assert progress is None
    assert capsys.readouterr() == ("", "")


def test_an_error_leaves_no_half_line() -> None:
    out = Terminal()
    with pytest.raises(ArtifactError), shown_progress("reading", out) as progress:
        assert progress is not None
        progress(LARGE, 2 * LARGE)
        raise ArtifactError("changed")
    assert out.getvalue() == "\rreading  50%\r" + " " * 12 + "\r"
