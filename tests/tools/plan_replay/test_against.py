"""Another commit's files, and how the difference of two plans is shown."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from glmc.errors import UsageError
from tests.tools.plan_replay.toy import toy_plan, with_a_call_in_front
from tools.plan_replay.against import first_difference, unified_diff, worktree
from tools.plan_replay.canonical import canonical


def text_of(plan: dict[str, Any]) -> str:
    return canonical(plan, {})


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits: a file with 'old' in it, then with 'new'; and 'newest' that is in none."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    for text in ("old", "new"):
        (folder / "file").write_text(text)
        git(folder, "add", "file")
        git(folder, "commit", "--quiet", "--message", text)
    (folder / "file").write_text("newest")
    return folder


class TestWorktree:
    def test_holds_the_commit_and_is_gone_afterwards(self, repository: Path) -> None:
        with worktree(repository, "HEAD~1") as tree:
            assert (tree / "file").read_text() == "old"
        assert not tree.exists()
        assert len(git(repository, "worktree", "list").splitlines()) == 1
        assert (repository / "file").read_text() == "newest"

    def test_is_gone_after_an_error(self, repository: Path) -> None:
        with pytest.raises(KeyboardInterrupt), worktree(repository, "HEAD") as tree:
            raise KeyboardInterrupt
        assert not tree.exists()
        assert len(git(repository, "worktree", "list").splitlines()) == 1

    @pytest.mark.parametrize("commit", ["nowhere", "--help", "HEAD~9"])
    def test_no_such_commit(self, repository: Path, commit: str) -> None:
        with pytest.raises(UsageError, match=f"there is no commit '{commit}'"):
            worktree(repository, commit).__enter__()


class TestDifference:
    def test_a_constant_is_shown_under_its_call(self, tmp_path: Path) -> None:
        plan = toy_plan()
        plan["calls"][1]["arguments"]["eps"] = {"value": 1e-06}
        assert first_difference(text_of(toy_plan()), text_of(plan)) == "call cpu.rms_norm of norm"
        shown = self.diff(tmp_path, plan).splitlines()
        assert '-  argument eps: {"value": 1e-05}' in shown
        assert '+  argument eps: {"value": 1e-06}' in shown
        assert sum(line[0] in "+-" for line in shown) == 2
        assert shown[0].startswith("@@") and shown[0].endswith("call cpu.embedding of embed")

    def test_a_call_more_is_named_though_its_buffer_stands_in_front(self, tmp_path: Path) -> None:
        plan = with_a_call_in_front()
        assert first_difference(text_of(toy_plan()), text_of(plan)) == "call cpu.copy of more"
        assert "+call cpu.copy of more" in self.diff(tmp_path, plan).splitlines()

    def test_offsets_come_behind_the_calls(self) -> None:
        plan = toy_plan()
        plan["buffers"][0]["offset"] = 0
        assert first_difference(text_of(toy_plan()), text_of(plan)) == "memory"
        plan["calls"][1]["host"] = True
        assert first_difference(text_of(toy_plan()), text_of(plan)) == "call cpu.rms_norm of norm"

    def test_a_long_one_is_cut_and_says_so(self, tmp_path: Path) -> None:
        whole = self.diff(tmp_path, with_a_call_in_front()).splitlines()
        cut = self.diff(tmp_path, with_a_call_in_front(), most=4).splitlines()
        assert cut == [*whole[:4], f"... and {len(whole) - 4} more lines; --lines 0 shows all"]

    def diff(self, folder: Path, plan: dict[str, Any], most: int = 0) -> str:
        old, new = folder / "old", folder / "new"
        old.write_text(text_of(toy_plan()))
        new.write_text(text_of(plan))
        return unified_diff(old, new, most)
