"""``--pipeline`` files: names with their lines, and every other form refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc.errors import UsageError
from glmc.pipeline.yaml_file import Named, read_pipeline


def written(folder: Path, text: str | bytes) -> str:
    path = folder / "order.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_names_keep_their_lines_and_off_is_a_word(tmp_path: Path) -> None:
    path = written(tmp_path, "# ours\npasses:\n  - clean\n  - rope\noff: ['silu_mul']\n")
    found = read_pipeline(path)
    assert found.passes == (Named("clean", f"{path}:3"), Named("rope", f"{path}:4"))
    assert found.off == (Named("silu_mul", f"{path}:5"),)


def test_both_keys_may_be_left_out(tmp_path: Path) -> None:
    found = read_pipeline(written(tmp_path, "{}"))
    assert (found.passes, found.off) == (None, ())
    assert read_pipeline(written(tmp_path, "passes: []")).passes == ()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "no mapping"),
        ("- clean\n", 1, "no mapping"),
        ("clean", 1, "no mapping"),
        ("passes: clean", 1, "'passes' is no list"),
        ("off:\n", 1, "'off' is no list"),
        ("off: {rope: 1}", 1, "'off' is no list"),
        ("off: [rope]\non: [mine]", 2, "there is no key 'on'"),
        ("? [off]\n: [rope]", 1, "there is no key ''"),
        ("off: [rope]\noff: [clean]", 2, "the key 'off' stands twice"),
        ("off:\n- rope\n- clean\n- rope", 4, "'rope' stands twice"),
        ("off:\n- rope\n- 3", 3, "is no name"),
        ("off: [on]", 1, "is no name"),
        ("off: [[rope]]", 1, "is no name"),
        ("off: [null]", 1, "is no name"),
        ("off: [rope", 1, "no YAML"),
        ("off: [rope]\n\t- x", 2, "no YAML"),
        ("off: [*nowhere]", 1, "no YAML"),
        ("off: []\n---\noff: []", 2, "no YAML"),
        ("off: !!python/object/apply:os.system ['true']", 1, "'off' is no list"),
        ("!!python/object:os.path {}", 1, "no mapping"),
        ("off: [!!python/name:os.system rope]", 1, "is no name"),
        ("[" * 5000, None, "no YAML"),
        (b"off: [\xff]", None, "no UTF-8"),
        ("off: [\x00]", None, "no YAML"),
        ("#" * (1 << 20) + "\n", None, "larger than"),
    ],
)
def test_other_forms_are_refused_with_their_place(
    text: str | bytes, line: int | None, words: str, tmp_path: Path
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_pipeline(path)
    assert words in caught.value.message
    assert caught.value.place == (path if line is None else f"{path}:{line}")
    assert caught.value.expected and caught.value.remedy


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.yaml", tmp_path, Path("x" * 5000)):
        with pytest.raises(UsageError, match="can't be read"):
            read_pipeline(str(path))
