"""The folder that an artifact grows in: others that look at it, what is left, and how it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from glmc.artifact import partial
from glmc.artifact.ending import held_back, removed_when_ended
from glmc.artifact.partial import partial_directory
from glmc_runtime.command.ending import ENDING, unwound_when_ended

ROOT = Path(__file__).resolve().parents[2]
PREFIX = ".art.partial-"


def names(path: Path) -> list[str]:
    return sorted(item.name for item in path.iterdir())


@pytest.mark.parametrize("times", [1, 3])
def test_a_folder_that_another_removes_before_it_is_locked_is_made_again(
    tmp_path: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = partial._try_lock, [None] * times

    def late(descriptor: int) -> bool:
        if left:
            left.pop()
            monkeypatch.setattr(partial, "_try_lock", real)
            partial._remove_left_over(tmp_path, PREFIX)
            monkeypatch.setattr(partial, "_try_lock", late)
        return real(descriptor)

    monkeypatch.setattr(partial, "_try_lock", late)
    with partial_directory(tmp_path / "art") as made:
        assert names(tmp_path) == [made.name]
        partial._remove_left_over(tmp_path, PREFIX)
        assert made.is_dir()
    assert names(tmp_path) == []


def test_a_folder_that_another_is_about_to_remove_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the lock already when we ask for it."""
    real, other = partial._try_lock, []

    def late(descriptor: int) -> bool:
        if not other:
            (path,) = tmp_path.iterdir()
            other.append(os.open(path, os.O_RDONLY))
            fcntl.flock(other[0], fcntl.LOCK_EX)
        return real(descriptor)

    monkeypatch.setattr(partial, "_try_lock", late)
    with partial_directory(tmp_path / "art") as made:
        assert os.fstat(other[0]).st_ino != made.stat().st_ino
    os.close(other[0])


def test_without_locks_there_is_no_waiting_and_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*given: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    (tmp_path / f"{PREFIX}old").mkdir()
    with partial_directory(tmp_path / "art") as made:
        assert sorted([made.name, f"{PREFIX}old"]) == names(tmp_path)


def finished(path: Path) -> None:
    path.rename(path.with_name("art"))


def finished_and_made_again(path: Path) -> None:
    path.rename(path.with_name("art"))
    path.mkdir()
    (path / "file").touch()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", [finished, finished_and_made_again, Path.rmdir])
def test_what_is_renamed_or_removed_while_it_is_looked_at(
    tmp_path: Path, when: str, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / f"{PREFIX}other"
    other.mkdir()
    real, done = os.open, []

    def opened(path: Path, *rest: int, **named: int) -> int:
        if path == other and not done:
            done.append(path)
            if when == "before":
                change(other)
                return real(path, *rest, **named)
            descriptor = real(path, *rest, **named)
            change(other)
            return descriptor
        return real(path, *rest, **named)

    monkeypatch.setattr(os, "open", opened)
    with partial_directory(tmp_path / "art"):
        pass
    assert done
    assert (tmp_path / "art").exists() is (change is not Path.rmdir)
    if change is finished_and_made_again and when == "after":
        assert (other / "file").exists()


def test_what_is_no_folder_is_neither_waited_for_nor_followed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"{PREFIX}pipe")
    (tmp_path / f"{PREFIX}file").touch()
    mine = tmp_path / "mine"
    mine.mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(mine)
    before = names(tmp_path)
    with partial_directory(tmp_path / "art"):
        pass
    assert names(tmp_path) == before


def test_a_folder_of_another_user_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / f"{PREFIX}other"
    other.mkdir()
    real = os.open

    def opened(path: Path, *rest: int, **named: int) -> int:
        if path == other:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *rest, **named)

    monkeypatch.setattr(os, "open", opened)
    with partial_directory(tmp_path / "art"):
        pass
    assert other.is_dir()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_its_mode_is_that_of_a_new_folder(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with partial_directory(tmp_path / "art") as made:
            assert made.stat().st_mode & 0o777 == 0o777 & ~mask
            assert names(made) == []
    finally:
        os.umask(before)


def test_what_can_not_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.rmtree", lambda path, ignore_errors: None)
    said = pytest.warns(UserWarning, match=r"\.art\.partial-.* is left over")
    with said, partial_directory(tmp_path / "art"):
        pass


def test_many_at_once(tmp_path: Path) -> None:
    failed: list[Exception] = []

    def write() -> None:
        try:
            for _ in range(20):
                with partial_directory(tmp_path / "art") as made:
                    (made / "file").write_bytes(b"x")
                    time.sleep(0)
                    assert (made / "file").read_bytes() == b"x"
        except (OSError, AssertionError) as error:
            failed.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert names(tmp_path) == []


WRITES = """
import os, signal, sys, threading
from pathlib import Path
from glmc.artifact.partial import partial_directory
from glmc_runtime.command.ending import unwound_when_ended
def wait():
    print("here", flush=True)
    for _ in range(1200):  # a signal just before a wait is seen after it
        threading.Event().wait(0.05)
def write(path):
    with partial_directory(Path(path)) as made:
        (made / "weights").mkdir()
        (made / "weights" / "file").write_bytes(b"x" * 1000)
        wait()
"""
PLAIN = "write(sys.argv[1])"
NESTED = f"""
with partial_directory(Path(sys.argv[1] + "2")):
    {PLAIN}
"""
COMMAND = f"""
with unwound_when_ended():
    {PLAIN}
"""
OWN = f"""
def stop(number, frame):
    raise SystemExit(7)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGHUP, stop)
{PLAIN}
"""


def ended(script: str, path: Path, number: int) -> int:
    with subprocess.Popen(
        [sys.executable, "-c", WRITES + script, str(path)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        assert names(path.parent)
        process.send_signal(number)
        return process.wait(20)


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("script", "status"),
    [(PLAIN, None), (NESTED, None), (COMMAND, 128), (OWN, 7)],
    ids=["nobody", "nested", "command", "own handler"],
)
def test_a_signal_that_ends_the_process_leaves_nothing(
    tmp_path: Path, number: signal.Signals, script: str, status: int | None
) -> None:
    """It ends by the signal itself where nobody handles it."""
    expected = -number if status is None else status + number if status == 128 else status
    assert ended(script, tmp_path / "art", number) == expected
    assert names(tmp_path) == []


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with partial_directory(tmp_path / "art") as made:
            os.kill(os.getpid(), signal.SIGHUP)
            with held_back():
                os.kill(os.getpid(), signal.SIGHUP)
            assert made.is_dir()
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_those_of_before() -> None:
    before = [signal.getsignal(number) for number in (*ENDING, signal.SIGINT)]
    for context in (removed_when_ended, held_back, unwound_when_ended):
        with context():
            assert [signal.getsignal(number) for number in ENDING] != before[:2]
        assert [signal.getsignal(number) for number in (*ENDING, signal.SIGINT)] == before


def test_a_fork_that_is_ended_leaves_its_parents_folder(tmp_path: Path) -> None:
    with partial_directory(tmp_path / "art") as made:
        (made / "file").touch()
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(tell, b"x")
            for _ in range(1200):
                time.sleep(0.05)
            os._exit(0)
        os.read(ready, 1)
        os.close(ready)
        os.close(tell)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert names(made) == ["file"]


def test_a_second_ctrl_c_does_not_stop_the_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    real = shutil.rmtree

    def slow(path: Path, ignore_errors: bool) -> None:
        signal.raise_signal(signal.SIGINT)
        real(path, ignore_errors=ignore_errors)

    with pytest.raises(KeyboardInterrupt), partial_directory(tmp_path / "art"):
        monkeypatch.setattr(shutil, "rmtree", slow)
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_other_threads_change_no_handler(tmp_path: Path) -> None:
    seen: list[object] = []

    def write() -> None:
        with partial_directory(tmp_path / "art"), held_back(), unwound_when_ended():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
