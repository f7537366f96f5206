"""Records of releases: kept, merged, and shown on the page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from glmc.errors import UsageError
from glmc_engines.surface.engines import Spec
from glmc_engines.surface.uses import Use
from glmc_engines.surface.verdict import judge
from tests.docs.markdown import table_rows
from tests.engines.surface.made_up import ENGINE, lookup
from tools.engine_releases.matrix import files_of, read_report, run_tests, total
from tools.engine_releases.overlay import beside, unmet
from tools.engine_releases.page import PAGE, page
from tools.engine_releases.reading import named, rows_digest, surface
from tools.engine_releases.records import (
    Ran,
    Record,
    Surface,
    merged,
    read_records,
    write_records,
)

READ = Surface("abc", 12, optional=("vllm.a: a is not in vllm",))
LACKING = Surface(
    "abc",
    12,
    lacking=("vllm.x.Y: Y is not in vllm.x",),
    against="0.9.0",
    changed=("vllm.z: signature: +a, " + "b=1 -> b=2, " * 12,),
)
RECORDS = [
    Record("vllm", "0.10.0", LACKING, Ran(5, 1, ("tests.test_a.test_b: No",))),
    Record("vllm", "0.9.0", READ),
    Record(
        "sglang", "0.5.20", ran=Ran(7, files=("test_a",), beside=("Python 3.11", "torch 2.5.1"))
    ),
]


def test_the_page_shows_the_records() -> None:
    records = read_records()
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text, records)
    assert len(table_rows(text)) == len(records)


def test_records_are_kept_in_the_order_of_versions(tmp_path: Path) -> None:
    write_records(RECORDS, tmp_path / "releases.json")
    read = read_records(tmp_path / "releases.json")
    assert [each.version for each in read] == ["0.5.20", "0.9.0", "0.10.0"]
    assert set(read) == set(RECORDS)
    assert read_records(tmp_path / "none.json") == []


def test_a_newer_record_keeps_what_it_does_not_tell() -> None:
    records = merged(RECORDS, Record("vllm", "0.9.0", ran=Ran(3)))
    assert len(records) == len(RECORDS)
    assert Record("vllm", "0.9.0", READ, Ran(3)) in records
    assert Record("vllm", "0.11.0", READ) in merged(RECORDS, Record("vllm", "0.11.0", READ))


def test_each_release_is_a_row() -> None:
    text = page("# Title\n\nProse.\n\n## Old\n\n| gone |\n", sorted(RECORDS, key=lambda r: r.order))
    assert text.startswith("# Title\n\nProse.\n\n## vLLM\n")
    assert table_rows(text) == [
        [
            "0.10.0",
            "**lacks** `vllm.x.Y` (Y is not in vllm.x)",
            "ran, 5 tests passed, **1 failed**, 1 skipped",
            "",
            "all",
        ],
        ["0.9.0", "all of 12; optional and absent: 1", "not run", "", ""],
        ["0.5.20", "not read", "ran, 7 tests passed", "Python 3.11, torch 2.5.1", "test_a"],
    ]
    assert "Failed inside 0.10.0:\n\n* `tests.test_a.test_b`: No\n" in text
    assert "Changed from 0.9.0 to 0.10.0:\n\n* `vllm.z`: signature: +a, b=1 to b=2, " in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_what_is_kept_of_a_surface(tmp_path: Path) -> None:
    uses = [
        Use("engine.layers.Norm", "class"),
        Use("engine.layers.Gone", "class"),
        Use("engine.gone", "module", optional=True),
    ]
    newer = ENGINE | {"engine/layers/norms.py": "class Norm:\n    def __init__(self, size): ..."}
    old = judge(lookup(ENGINE, tmp_path / "old"), uses)
    new = judge(lookup(newer, tmp_path / "new"), uses)
    found = surface(uses, new, (Spec("engine", "1.0"), old))
    assert found == Surface(
        rows_digest(uses),
        3,
        ("engine.layers.Gone: Gone is not in engine.layers",),
        ("engine.gone: gone is not in engine",),
        "1.0",
        ("engine.layers.Norm: none -> (size)",),
    )
    assert surface(uses, old, None).changed == ()


def test_other_rows_are_told_apart() -> None:
    use = Use("engine.x", "class", why="here")
    assert rows_digest([use]) == rows_digest([Use("engine.x", "class", why="there")])
    assert rows_digest([use]) != rows_digest([Use("engine.x", "function")])


def test_a_report_of_tests(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(
        "<testsuites><testsuite><testcase classname='a' name='one'/>"
        "<testcase classname='a' name='two'><failure message='assert 1 &#10; more'/></testcase>"
        "<testcase classname='' name='three'><error/></testcase>"
        "<testcase classname='a' name='four'><skipped/></testcase></testsuite></testsuites>"
    )
    assert read_report(tmp_path / "report.xml") == Ran(1, 1, ("a.two: assert 1", "three"))


def test_counts_of_several_files_are_added() -> None:
    parts = [Ran(2, 1, ("a",)), Ran(3, 0, ("b",))]
    assert total(parts, ("test_x",), ("torch 1",)) == Ran(
        5, 1, ("a", "b"), ("test_x",), ("torch 1",)
    )
    assert [file.stem for file in files_of("vllm", ["test_limits"])] == ["test_limits"]
    assert len(files_of("sglang")) > 3
    with pytest.raises(UsageError, match=r"no file test_none\.py"):
        files_of("vllm", ["test_none"])


def test_what_a_release_pins_is_laid_over_too(tmp_path: Path) -> None:
    for name, version, wants in (
        ("engine", "1.0", ("transformers==5.12.1", "numpy<1", "tokenizers>=0.1; extra == 'x'")),
        ("transformers", "5.12.1", ("tokenizers<=0.23.0,>=0.22", "huggingface_hub>=1.5")),
    ):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {w}" for w in wants)]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
    present = {"transformers": "5.19.0", "tokenizers": "0.23.3", "huggingface-hub": "2.4.0"}
    assert list(unmet("engine", tmp_path, present)) == []  # the folder has what it pins
    (wanted,) = unmet("transformers", tmp_path, present)
    assert str(wanted) == "tokenizers<=0.23.0,>=0.22"
    assert list(unmet("transformers", tmp_path, present | {"tokenizers": "0.22.2"})) == []


def test_versions_that_tests_ran_with() -> None:
    python, torch, transformers = beside(Path(sys.executable), Path())
    assert python == "Python " + ".".join(map(str, sys.version_info[:2]))
    assert torch.startswith("torch 2.") and transformers.startswith("transformers ")


def test_what_can_not_be_asked_for(tmp_path: Path) -> None:
    assert named(["vllm==0.33.0"]) == [Spec("vllm", "0.33.0")]
    with pytest.raises(UsageError, match="no engine 'pytest'"):
        named(["pytest"])
    with pytest.raises(UsageError, match="no environment for vllm"):
        run_tests(Spec("vllm", "0.33.0"), tmp_path, tmp_path)
