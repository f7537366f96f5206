"""Which passes run: the page, a file, --passes-on and --passes-off, and every contradiction."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from glmc.config import CompileOptions
from glmc.errors import GlmcError, UsageError
from glmc.pipeline.extensions import PASSES as GROUP
from glmc.pipeline.selection import selection
from glmc.pipeline.stages import PASSES
from glmc_runtime.errors import ExtensionError
from tests.support.distributions import install

PAGE = [one.name for one in PASSES]
MODULE = """
from types import SimpleNamespace as Made
from glmc.pipeline.extensions import PassExtension
from glmc.ir.ops import Numerics
from glmc.passes.base import PassResult


def made(name, **place):
    body = Made(name=name, numerics=Numerics.BITWISE, run=lambda program: PassResult())
    return PassExtension(body, **place)


last = made("last")
first = made("first", before="canonical")
second = made("second", after="canonical")
third = made("third", after="canonical")
follows = made("follows", after="second")
between = made("between", after="rope", before="attention", takes=("attention",))
backwards = made("backwards", after="attention", before="rope")
lonely = made("lonely", after="nowhere")
taker = made("taker", takes=("nowhere",))
"""
NAMES = "last first second third follows between backwards lonely taker".split()


@pytest.fixture(autouse=True)
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {name: f"selected_passes:{name}" for name in NAMES}
    folder = install(tmp_path / "site", "others", {GROUP: points}, {"selected_passes.py": MODULE})
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "selected_passes", raising=False)


def names(**options: object) -> list[str]:
    return [one.name for one in selection(CompileOptions(**options)).passes]  # type: ignore[arg-type]


def test_nothing_runs_because_it_is_installed() -> None:
    assert names() == PAGE
    assert "selected_passes" not in sys.modules


def test_what_is_off_does_not_run() -> None:
    chosen = selection(CompileOptions(passes_off=("silu_mul", "rope", "silu_mul")))
    assert [one.name for one in chosen.passes] == [
        name for name in PAGE if name not in ("silu_mul", "rope")
    ]
    assert chosen.off == ("rope", "silu_mul")
    assert names(passes_off=("last",)) == PAGE  # known, and it would not have run


@pytest.mark.parametrize(
    ("on", "start", "end"),
    [
        (("last",), PAGE[:2], ["last"]),
        (("first",), ["first", "canonical"], PAGE[-1:]),
        (("second", "third"), ["canonical", "second", "third", "clean"], PAGE[-1:]),
        (("third", "second"), ["canonical", "third", "second", "clean"], PAGE[-1:]),
        (("second", "follows", "third"), ["canonical", "second", "third"], PAGE[-1:]),
    ],
)
def test_a_pass_stands_where_it_wants_to(
    on: tuple[str, ...], start: list[str], end: list[str]
) -> None:
    found = names(passes_on=on)
    if "follows" in on:
        assert found.index("follows") == found.index("second") + 1
        found.remove("follows")
    assert (found[: len(start)], found[-1:]) == (start, end)
    assert [name for name in found if name not in on] == PAGE


def test_between_two_and_what_it_takes() -> None:
    chosen = selection(CompileOptions(passes_on=("between",), passes_off=("rope",)))
    found = [one.name for one in chosen.passes]
    assert found[found.index("qk_norm") - 1] == "between"  # after where rope stood
    assert chosen.uncounted == {"attention"}
    assert [one.entry.distribution for one in chosen.added] == ["others 0.1.0"]


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"passes_on": ("backwards",)}, ExtensionError, "after 'attention' and before 'rope'"),
        ({"passes_on": ("lonely",)}, ExtensionError, "can't stand by"),
        ({"passes_on": ("taker",)}, ExtensionError, "can't stand by"),
        ({"passes_on": ("follows",)}, ExtensionError, "must run beside 'second', which is not"),
        ({"passes_on": ("nowhere",)}, UsageError, "there is no pass 'nowhere'"),
        ({"passes_on": ("last", "last")}, UsageError, "'last' runs already"),
        ({"passes_on": ("rope",)}, UsageError, "'rope' runs already"),
        ({"passes_on": ("kv_cache",)}, UsageError, "glmc's own"),
        ({"passes_on": ("last",), "passes_off": ("last",)}, UsageError, "on and off"),
        ({"passes_off": ("nowhere",)}, UsageError, "there is no pass 'nowhere'"),
        ({"passes_off": ("canonical",)}, UsageError, "every other pass reads its spelling"),
        ({"passes_off": ("clean",)}, UsageError, "can't be switched off"),
        ({"passes_off": ("kv_cache",)}, UsageError, "replays a graph over its cache"),
        ({"passes_off": ("specialise",)}, UsageError, "can't be switched off"),
        ({"passes_off": ("memory_plan",)}, UsageError, "can't be switched off"),
    ],
)
def test_contradictions(
    options: dict[str, tuple[str, ...]], kind: type[GlmcError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        names(**options)
    assert words in caught.value.message
    assert caught.value.place and caught.value.remedy


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        names(passes_off=("rms-norm",))
    assert caught.value.expected == ", ".join([*PAGE, *sorted(NAMES)])


def test_a_stranger_with_a_name_of_glmc_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path / "bad", "bad", {GROUP: {"rope": "x:y"}}))
    assert names() == PAGE  # nobody asked
    with pytest.raises(ExtensionError, match="'rope' is a name of glmc itself"):
        names(passes_on=("last",))


def written(folder: Path, passes: list[str] | None, off: list[str] | None = None) -> str:
    lines = [] if passes is None else [f"passes: [{', '.join(passes)}]"]
    lines += [] if off is None else [f"off: [{', '.join(off)}]"]
    (folder / "order.yaml").write_text("\n".join(lines))
    return str(folder / "order.yaml")


def test_a_file_gives_the_order(tmp_path: Path) -> None:
    order = [PAGE[0], "follows", *PAGE[:0:-1]]
    order.remove("silu_mul")
    file = written(tmp_path, order, ["silu_mul"])
    assert names(pipeline=file) == order
    assert names(pipeline=file, passes_off=("rope",)) == [one for one in order if one != "rope"]
    assert names(pipeline=file, passes_on=("last",)) == [*order, "last"]
    assert selection(CompileOptions(pipeline=file)).off == ("silu_mul",)


def test_off_alone_keeps_the_usual_order(tmp_path: Path) -> None:
    file = written(tmp_path, None, ["silu_mul"])
    assert names(pipeline=file) == names(passes_off=("silu_mul",))


@pytest.mark.parametrize(
    ("passes", "off", "words"),
    [
        (PAGE[:-1], None, "must list or disable every built-in pass"),
        (PAGE, ["rope"], "'rope' is in 'passes' and in 'off'"),
        ([*PAGE, "kv_cache"], None, "always runs last"),
        ([*PAGE, "nowhere"], None, "there is no pass 'nowhere'"),
        (None, ["clean"], "can't be switched off"),
        (None, ["nowhere"], "there is no pass 'nowhere'"),
    ],
)
def test_files_that_contradict(
    passes: list[str] | None, off: list[str] | None, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        names(pipeline=written(tmp_path, passes, off))
    assert words in caught.value.message
    assert "order.yaml" in caught.value.place
