"""A row fits, is missing, moved, of another kind, or of another signature; and what changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc_engines.surface.uses import Use
from glmc_engines.surface.verdict import Verdict, changes, judge, lacking
from tests.engines.surface.made_up import ENGINE, lookup

MOVED = {
    **{name: text for name, text in ENGINE.items() if "layers" not in name},
    "engine/parts/__init__.py": "",
    "engine/parts/attention.py": """
class Attention:
    def __init__(self, heads, head_size, scale, layer): ...
    def forward(self, x, metadata): ...
    def shapes(self): ...
    kind: str = "paged"
""",
}


def verdict(use: Use, folder: Path, files: dict[str, str] = ENGINE) -> Verdict:
    (found,) = judge(lookup(files, folder), [use])
    return found


@pytest.mark.parametrize(
    "use",
    [
        Use("engine.layers.Attention", "class", ("heads", "head_size", "scale", "prefix")),
        Use("engine.layers.Attention.forward", "method", ("x", "anything")),
        Use("engine.layers.Attention.heads", "attribute"),
        Use("engine.choice.run", "function"),
        Use("engine.choice.sys", "module"),
        Use("engine.layers.base", "module"),
        Use("engine.layers.base", "any"),
    ],
)
def test_what_fits(tmp_path: Path, use: Use) -> None:
    found = verdict(use, tmp_path)
    assert found.fits and not found.reason


def test_a_member_of_what_the_release_does_not_define_is_not_judged(tmp_path: Path) -> None:
    found = verdict(Use("engine.LAZY.get", "any"), tmp_path)
    assert (found.state, found.fits) == ("unknown", True)
    assert found.reason == "get is a member of no class here"


@pytest.mark.parametrize(
    ("use", "state", "reason"),
    [
        (
            Use("engine.parts.Attention", "class"),
            "moved",
            "is now engine.layers.attention.Attention",
        ),
        (
            Use("engine.parts.Attention.shape", "method"),
            "moved",
            "is now engine.layers.attention.Attention.shape",
        ),
        (Use("engine.parts.base", "module"), "moved", "is now engine.layers.base"),
        (Use("engine.layers.Gone", "class"), "missing", "Gone is not in engine.layers"),
        (
            Use("engine.layers.Attention.head", "attribute"),
            "missing",
            "head is not in engine.layers.attention.Attention, which has heads",
        ),
        (Use("engine.layers.Norm", "function"), "other kind", "is a class, not a function"),
        (
            Use("engine.layers.Attention.blocks", "method"),
            "other kind",
            "is an attribute, not a method",
        ),
        (Use("engine.choice.run", "function", ()), "other signature", "requires x"),
        (
            Use("engine.layers.Attention.forward", "method", ("x", "metadata"), override=True),
            "other signature",
            "has the parameters (x, metadata=None, **rest)",
        ),
    ],
)
def test_what_does_not_fit(tmp_path: Path, use: Use, state: str, reason: str) -> None:
    found = verdict(use, tmp_path)
    assert (found.state, found.reason) == (state, reason)


def test_one_of_several_is_enough(tmp_path: Path) -> None:
    rows = [
        Use("engine.layers.Attention", "class", either="attention"),
        Use("engine.parts.Attention", "class", either="attention"),
        Use("engine.parts", "module", optional=True),
        Use("engine.choice.Gone", "class"),
    ]
    names = [each.use.name for each in lacking(judge(lookup(ENGINE, tmp_path), rows))]
    assert names == ["engine.choice.Gone"]
    assert len(lacking(judge(lookup(ENGINE, tmp_path), rows[1:2]))) == 1


def test_what_changed_between_two_releases(tmp_path: Path) -> None:
    rows = [
        Use("engine.layers.Attention", "class"),
        Use("engine.parts.Attention", "any"),
        Use("engine.parts.attention.Attention.kind", "attribute"),
        Use("engine.config.Whole", "class"),
        Use("engine.registry.Registry.register", "method"),
    ]
    newer = MOVED | {
        "engine/parts/__init__.py": "from .attention import Attention",
        "engine/registry.py": "from .config import Whole as Registry",
        "engine/config.py": ENGINE["engine/config.py"].replace("    name: str", "    title: str"),
    }
    newer["engine/parts/attention.py"] = newer["engine/parts/attention.py"].replace("str", "int")
    old = judge(lookup(MOVED | {"engine/parts/__init__.py": ""}, tmp_path / "old"), rows)
    new = judge(lookup(newer, tmp_path / "new"), rows)
    assert {each.name: each.what for each in changes(old, new)} == {
        "engine.parts.Attention": "new",
        "engine.parts.attention.Attention.kind": "str -> int",
        "engine.config.Whole": "signature: +title, -name",
        "engine.registry.Registry.register": "gone: register is not in engine.config.Whole",
    }


def test_a_definition_that_moves_under_its_old_name_is_told(tmp_path: Path) -> None:
    row = [Use("engine.layers.Attention", "class")]
    newer = MOVED | {"engine/layers.py": "from engine.parts.attention import Attention"}
    old = judge(lookup(ENGINE, tmp_path / "old"), row)
    (change,) = changes(old, judge(lookup(newer, tmp_path / "new"), row))
    assert change.what == (
        "moved: engine.layers.attention.Attention -> engine.parts.attention.Attention; "
        "signature: +layer, -prefix=''"
    )
