"""Names are found through re-exports, conditions, base classes, aliases and annotations."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc_engines.surface.constructor import constructor
from glmc_engines.surface.lookup import Class, Lookup, Member, Missing, Module
from tests.engines.surface.made_up import ENGINE, lookup


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Lookup:
    return lookup(ENGINE, tmp_path_factory.mktemp("engine"))


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("engine.layers", "engine.layers"),
        ("engine.layers.Attention", "engine.layers.attention.Attention"),
        ("engine.layers.Attention.forward", "engine.layers.base.Layer.forward"),
        ("engine.layers.Attention.heads", "engine.layers.attention.Attention.heads"),
        ("engine.layers.Attention.cache", "engine.layers.attention.Attention.cache"),
        ("engine.layers.Attention.kind", "engine.layers.attention.Attention.kind"),
        ("engine.layers.Norm", "engine.layers.norms.Norm"),
        ("engine.layers.norms.Norm", "engine.layers.norms.Norm"),
        # Only type checkers see its import, but the module answers for it.
        ("engine.Registry.register", "engine.registry._Registry.register"),
        ("engine.config.Whole.parallel.worker", "engine.config.Parallel.worker"),
        ("engine.config.More.name", "engine.config.Whole.name"),
        ("engine.choice.Fast", "engine.layers.norms.Norm"),
        ("engine.choice.sys", "engine.choice.sys"),
    ],
)
def test_a_name_leads_to_its_definition(names: Lookup, name: str, home: str) -> None:
    found = names.find(name)
    assert not isinstance(found, Missing)
    assert found.home == home


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("engine.gone.Attention", ("gone", "Attention")),
        ("engine.layers.Attention.gone", ("gone",)),
        ("engine.layers.base.Attention", ("Attention",)),
        ("engine.config.ForCheckers", ("ForCheckers",)),
        ("engine.choice.circle", ("circle",)),
        ("other.layers", ("other", "layers")),
    ],
)
def test_what_is_not_there_is_missing(names: Lookup, name: str, rest: tuple[str, ...]) -> None:
    found = names.find(name)
    assert isinstance(found, Missing)
    assert found.rest == rest


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("engine.layers.Attention.forward", "(x, metadata=None, **rest)"),
        ("engine.layers.Attention.name", "()"),
        ("engine.layers.Attention.shape", "(blocks, size)"),
        ("engine.layers.Attention.blocks", "None"),
        ("engine.choice.run", "(x, y=1)"),
        ("engine.choice.pick", "(a)"),
    ],
)
def test_signatures_are_without_what_is_bound(names: Lookup, name: str, signature: str) -> None:
    found = names.find(name)
    assert isinstance(found, Member)
    assert str(found.signature()) == signature


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("engine.layers.Attention", "(heads, head_size, scale, *, prefix='')"),
        ("engine.config.Parallel", "(size=1, worker='auto')"),
        ("engine.config.More", "(name, parallel=None, *, extra=list)"),
        ("engine.layers.Norm", "None"),
    ],
)
def test_a_class_is_called_as_its_constructor_or_its_fields_say(
    names: Lookup, name: str, signature: str
) -> None:
    found = names.find(name)
    assert isinstance(found, Class)
    assert str(constructor(names, found)) == signature


def test_a_folder_without_init_is_a_module(tmp_path: Path) -> None:
    found = lookup({"engine/plain/tools.py": "def f(): ..."}, tmp_path).find("engine.plain.tools")
    assert found == Module("engine.plain.tools")
