"""Records that hold something else than their annotations say are refused, whatever it is."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import glmc_runtime
from glmc_runtime.errors import GlmcError
from glmc_runtime.format.cache import CacheSpec
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.plan import WeightArgument
from glmc_runtime.format.records import misfit
from tests.runtime.toy import key_value_cache

HOSTILE = [None, True, -1, 0, 10**30, 1.5, "x", "-3", "9" * 5000, [], [[]], {}, {"a": 1}]


def test_what_fits_and_what_does_not() -> None:
    spec = key_value_cache(1, 2, 8, "float32", 4, 16, "blocks_heads_tokens")
    assert misfit(spec, CacheSpec, "cache") is None
    wrong = key_value_cache(1, True, 8, "float32", 4, 16, "blocks_heads_tokens")
    assert misfit(wrong, CacheSpec, "cache") == "cache.tensors[0].shape[0] is True and not int"
    assert misfit(WeightArgument("a", (0, 1)), WeightArgument, "x") is None
    assert misfit(WeightArgument("a", (0,)), WeightArgument, "x") is not None  # type: ignore[arg-type]
    assert misfit({"a": (1, "b")}, dict[str, tuple[int, ...]], "x") == "x.a[1] is 'b' and not int"
    assert misfit({1: 1}, dict[str, int], "x") is not None
    assert misfit(Extent(), WeightArgument, "x") is not None


def _places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from _places(value, (*path, key))


def _replace(data: Any, place: tuple[Any, ...], value: Any) -> None:
    for key in place[:-1]:
        data = data[key]
    data[place[-1]] = value


@pytest.mark.parametrize("name", ["manifest.json", "plans/prefill.json", "plans/decode.json"])
def test_no_field_of_any_kind_ends_in_a_foreign_error(
    toy_path: Path, tmp_path: Path, name: str
) -> None:
    """With right hashes: the artifact loads and runs, or raises an error with a code."""
    root = Path(shutil.copytree(toy_path, tmp_path / "copy"))
    manifest, text = (root / "manifest.json").read_text(), (root / name).read_text()
    places = list(_places(json.loads(text)))
    draw = random.Random(name)
    for _ in range(60):
        data = json.loads(text)
        _replace(data, draw.choice(places), draw.choice(HOSTILE))
        (root / "manifest.json").write_text(manifest)
        (root / name).write_text(json.dumps(data))
        if name != "manifest.json":
            content = (root / name).read_bytes()
            listed = json.loads(manifest)
            listed["files"][name] = {
                "sha256": hashlib.sha256(content).hexdigest(),
                "size": len(content),
            }
            (root / "manifest.json").write_text(json.dumps(listed))
        try:
            session = glmc_runtime.load(root, kv_blocks=8)
            session.generate([[1, 2, 3]], max_new_tokens=2, ignore_eos=True)
        except GlmcError as error:
            assert error.code.startswith("GLMC-2")


def test_json_that_no_parser_can_hold(toy_path: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(toy_path, tmp_path / "copy"))
    for text in ("[" * 100_000, '{"a": ' + "9" * 5000 + "}"):
        (root / "manifest.json").write_text(text)
        with pytest.raises(GlmcError, match="not valid JSON"):
            glmc_runtime.load(root)
    (root / "manifest.json").unlink()
    (root / "manifest.json").mkdir()
    with pytest.raises(GlmcError, match="directory in the place of a file"):
        glmc_runtime.load(root)
