"""The plug-in in a process: what SGLang would pass over in silence ends the start instead."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

import glmc_engines.sglang as entry
from glmc_engines.core.errors import EngineVersionError, UnsupportedError
from glmc_engines.sglang import compat, plugin, register
from glmc_engines.sglang.names import PACKAGE

LOOK_AT_REQUESTS = compat.before_each_request


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plugin._look_at_requests.cache_clear()
    monkeypatch.setattr(entry, "_failed", None)
    monkeypatch.setattr(compat, "before_each_request", lambda check: None)
    monkeypatch.setenv("SGLANG_EXTERNAL_MODEL_PACKAGE", PACKAGE)
    monkeypatch.delenv("GLMC_REQUIRE", raising=False)
    yield
    plugin._look_at_requests.cache_clear()


def fails(*arguments: object) -> None:
    raise AttributeError("module 'sglang' has no attribute 'that'")


def test_it_may_be_called_again() -> None:
    register()
    register()
    entry.require_plugged_in()


def test_a_request_is_looked_at_once_however_often_it_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry

    hooks: dict[str, list[object]] = defaultdict(list)
    monkeypatch.setattr(HookRegistry, "_hooks", hooks)
    monkeypatch.setattr(compat, "before_each_request", LOOK_AT_REQUESTS)
    for _ in range(3):
        register()
    (target,) = hooks
    assert target.endswith("TokenizerManager._validate_one_request")
    assert len(hooks[target]) == 1


def test_a_release_without_a_name_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "route_attention_backends", fails)
    monkeypatch.delenv("SGLANG_EXTERNAL_MODEL_PACKAGE")
    register()
    assert "SGLANG_EXTERNAL_MODEL_PACKAGE" not in os.environ


def test_a_release_without_a_name_ends_the_start_that_requires_plans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compat, "route_attention_backends", fails)
    monkeypatch.delenv("SGLANG_EXTERNAL_MODEL_PACKAGE")
    monkeypatch.setenv("GLMC_REQUIRE", "1")
    register()
    assert os.environ["SGLANG_EXTERNAL_MODEL_PACKAGE"] == PACKAGE
    with pytest.raises(EngineVersionError, match="no attribute 'that'"):
        entry.require_plugged_in()


def test_a_plug_in_that_can_t_be_imported_ends_the_start_that_requires_plans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, plugin.__name__, None)
    monkeypatch.delenv("SGLANG_EXTERNAL_MODEL_PACKAGE")
    register()
    entry.require_plugged_in()
    assert "SGLANG_EXTERNAL_MODEL_PACKAGE" not in os.environ
    monkeypatch.setenv("GLMC_REQUIRE", "1")
    register()
    assert os.environ["SGLANG_EXTERNAL_MODEL_PACKAGE"] == PACKAGE
    with pytest.raises(ImportError, match=plugin.__name__):
        entry.require_plugged_in()


def test_a_model_of_the_engine_s_is_refused_where_plans_are_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = SimpleNamespace(model=SimpleNamespace())
    assert not plugin._has_model_of_ours(runner)
    for name, value in (("GLMC_REQUIRE", "1"), ("GLMC_ARTIFACT", "out/tiny-moe.cpu")):
        with monkeypatch.context() as given:
            given.setenv(name, value)
            with pytest.raises(UnsupportedError, match="none of glmc's"):
                plugin._has_model_of_ours(runner)
