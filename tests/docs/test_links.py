"""Every markdown file: links resolve, no path of a machine, no overlong line, each fence closed."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, blocks, markdown_files, prose

LONGEST = 120
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`]*`")
_ELSEWHERE = re.compile(r"^[a-z]+:")
# A slash that begins a word of at least two parts, or a drive letter.
_LOCAL_PATH = re.compile(r"(?<![\w.~:/<>)*}$-])(?!/dev/null\b)/[A-Za-z_][\w.-]*/\w|\b[A-Z]:\\\w")
# A module, or a place below a folder of this repository; what is written like a pattern is none.
_FILE = re.compile(
    r"`((?:bench|docs|glmc|models|runtime|tests|tools|tuning)/[\w./-]*\w|[a-z][\w/]*\.py)/?`"
)
# Files that commands write, and those of the packages that pages show.
_MADE = {
    "repro.py",
    "acme_kernels.py",
    "acme_target.py",
    "swiglu_linear.py",
    "test_swiglu_linear.py",
}
FILES = markdown_files()


def links(path: Path) -> list[str]:
    return [link for _, line in prose(path) for link in _LINK.findall(_CODE.sub("", line))]


def anchors(path: Path) -> set[str]:
    """The anchors that headings get: lower case, punctuation dropped, spaces to hyphens."""
    titles = [line.lstrip("# ") for _, line in prose(path) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(path: Path) -> list[str]:
    """Relative links of a file that lead nowhere."""
    found = []
    for link in links(path):
        if _ELSEWHERE.match(link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        inside = target.resolve().is_relative_to(ROOT.resolve())
        if not (inside and target.exists()) or (
            anchor and target.suffix == ".md" and anchor not in anchors(target)
        ):
            found.append(link)
    return found


@cache
def tracked() -> tuple[str, ...]:
    """Every file of the repository, and every folder."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    files = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    folders = {folder.as_posix() for name in files for folder in Path(name).parents}
    return (*files, *sorted(folders))


def gone(path: Path) -> list[str]:
    """Files of this repository that a page names and that are not there; the first folders of a
    path may be left out."""
    text = "\n".join(line for _, line in prose(path))
    names = [
        name
        for name in dict.fromkeys(_FILE.findall(text))
        if name not in _MADE and "NAME" not in name
    ]
    return [
        name for name in names if not any(f"/{file}".endswith(f"/{name}") for file in tracked())
    ]


def overlong(path: Path) -> list[int]:
    """Lines of prose that are too long; tables and code are not prose."""
    return [
        number
        for number, line in prose(path)
        if len(line) > LONGEST and not line.lstrip().startswith("|")
    ]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_documents_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/errors.md"} <= {name_of(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_links_resolve(path: Path) -> None:
    assert broken(path) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_that_the_page_names_are_there(path: Path) -> None:
    assert gone(path) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_path_of_a_machine(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if _LOCAL_PATH.search(line)] == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_lines_are_short(path: Path) -> None:
    assert overlong(path) == []


def test_the_readme_links_every_document() -> None:
    linked = {(ROOT / link).resolve() for link in links(ROOT / "README.md")}
    assert {path.resolve() for path in (ROOT / "docs").glob("*.md")} - linked == set()


def test_the_checks_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    page = tmp_path / "page.md"
    long = "word " * 30
    page.write_text(
        "# A title, here\n[a](page.md#a-title-here) [b](gone.md) [c](#gone) [d](../x.md)\n"
        f"[f](https://example.com) `[e](no)` {long}\n"
        f"| {long} |\n```text\n[g](gone.md) {long}\n```\n"
    )
    assert broken(page) == ["gone.md", "#gone", "../x.md"]
    assert overlong(page) == [3]
    page.write_text("`glmc/compiler.py`, `compiler.py`, `glmc/gone.py`, `glmc/ir/`, `glmc/gone`\n")
    monkeypatch.undo()
    assert gone(page) == ["glmc/gone.py", "glmc/gone"]
    texts = (
        "see /data/models/a",
        "`/var/x`",
        "C:\\Users",
        "and/or/else",
        "https://a.b/c/d",
        "a/b/c",
    )
    assert [bool(_LOCAL_PATH.search(text)) for text in texts] == [True, True, True] + [False] * 3
    page.write_text("```text\nnever closed\n")
    with pytest.raises(ValueError, match="never closed"):
        blocks(page)
