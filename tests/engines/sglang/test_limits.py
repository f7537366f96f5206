"""What plans lack is refused by name; what asks for nothing is not."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.server_args import ServerArgs

from glmc_engines.core.errors import NoArtifactError, UnsupportedError
from glmc_engines.sglang.limits import LIMITS, Limit, refuse_manifest, refuse_options
from glmc_runtime.format.manifest import Ranks

_FIELDS = {field: None for field in ServerArgs.__struct_fields__}


def options(**changed: Any) -> Callable[[str], Any]:
    """Server arguments as of a plain start, but for those that are given."""
    plain = ServerArgs(model_path="dummy")
    return lambda name: changed[name] if name in changed else getattr(plain, name, None)


def test_a_plain_start_asks_for_nothing_that_plans_lack() -> None:
    refuse_options(options())


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.option)
def test_each_is_refused_by_name(limit: Limit) -> None:
    value = 2 if isinstance(getattr(ServerArgs, limit.option, None), int) else "something"
    with pytest.raises(UnsupportedError) as caught:
        refuse_options(options(**{limit.option: value}))
    assert limit.flag in str(caught.value)
    assert limit.feature in str(caught.value)


def test_options_are_those_of_this_release() -> None:
    gone = {"torchao_config"}  # of older releases
    assert {limit.option for limit in LIMITS} - set(_FIELDS) <= gone


def manifest(**changed: Any) -> Any:
    facts = SimpleNamespace(
        name="tiny", architecture="Glm4ForCausalLM", layers=3, vocabulary=1536, hidden=128
    )
    values = {"model": facts, "ranks": Ranks(), "deterministic": None}
    return SimpleNamespace(**{**values, **changed})


def config(**changed: Any) -> Any:
    values = {
        "architectures": ["Glm4ForCausalLM"],
        "num_hidden_layers": 3,
        "vocab_size": 1536,
        "hidden_size": 128,
    }
    return SimpleNamespace(**{**values, **changed})


def test_the_artifact_of_the_model_is_taken() -> None:
    refuse_manifest(manifest(), config(), options(tp_size=1))


@pytest.mark.parametrize(
    "changed",
    [
        {"architectures": ["Glm4MoeForCausalLM"]},
        {"num_hidden_layers": 4},
        {"vocab_size": 1024},
        {"hidden_size": 64},
    ],
)
def test_the_artifact_of_another_model_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(NoArtifactError) as caught:
        refuse_manifest(manifest(), config(**changed), options(tp_size=1))
    (value,) = changed.values()
    assert str(value[0] if isinstance(value, list) else value) in str(caught.value)


def test_experts_that_are_dealt_in_another_way_are_refused() -> None:
    with pytest.raises(NoArtifactError, match="experts"):
        refuse_manifest(
            manifest(ranks=Ranks(2, expert_parallel=True)), config(), options(tp_size=2)
        )


def test_determinism_needs_an_artifact_that_has_it() -> None:
    asked = options(tp_size=1, enable_deterministic_inference=True)
    with pytest.raises(UnsupportedError, match="depend on the batch"):
        refuse_manifest(manifest(), config(), asked)
    refuse_manifest(manifest(deterministic="batch"), config(), asked)
