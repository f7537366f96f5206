"""A plug-in that can't do its work: vLLM would serve with its own model, and nobody would know."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import vllm.model_executor.model_loader.utils
import vllm.plugins
from vllm.model_executor.models.registry import ModelRegistry, _ModelRegistry

from glmc_engines.core.errors import EngineVersionError
from glmc_engines.vllm import register
from tests.engines.vllm.conftest import Compile
from tests.engines.vllm.reference import Reference
from tests.engines.vllm.test_offline import check, counts, generate, start


@pytest.fixture
def other_release(in_process: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A vLLM that has no ``register_model``, and has not loaded plug-ins yet. Which class serves a
    config it keeps for itself: others in this process have one of ours."""
    in_process.delattr(_ModelRegistry, "register_model")
    in_process.setattr(vllm.plugins, "plugins_loaded", False)
    in_process.setattr(vllm.model_executor.model_loader.utils, "_MODEL_ARCH_BY_HASH", {}, False)
    yield in_process


def test_vllm_serves_alone_where_nobody_requires_plans(
    other_release: pytest.MonkeyPatch,
    reference: Callable[[str], Reference],
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = reference("tiny-dense")
    answers = [model.answer(prompt, 24) for prompt in model.prompts(2)]
    llm = start("tiny-dense", max_model_len=128)
    check(generate(llm, [answer.prompt for answer in answers]), answers)
    assert counts("serves") == counts("steps") == 0
    text = "".join(capsys.readouterr())
    assert "glmc leaves all models to vLLM: [GLMC-4003]" in text
    assert "register_model" in text
    from prometheus_client import REGISTRY, generate_latest

    assert b'glmc_serves{rank="0"} 0.0' in generate_latest(REGISTRY)


@pytest.mark.parametrize(
    "variables", [{"GLMC_REQUIRE": "1"}, {"GLMC_ARTIFACT": "somewhere"}, {"GLMC_REQUIRE": "yes"}]
)
def test_the_start_ends_where_plans_are_asked_for(
    other_release: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        other_release.setenv(name, value)
    with pytest.raises(EngineVersionError, match="register_model"):
        start("tiny-dense", max_model_len=128)


WITHOUT_RUNTIME = """
import sys
sys.modules["glmc_runtime"] = None  # importing it is an ImportError
from glmc_engines.vllm import register
assert not {"torch", "vllm", "glmc_engines.core"} & set(sys.modules)
register()
from glmc_engines.core.counters import shared_counts
print([(count.name, count.value) for count in shared_counts()])
"""


@pytest.mark.parametrize("required", ["0", "1"])
def test_a_plug_in_without_its_runtime(in_process: pytest.MonkeyPatch, required: str) -> None:
    """Nothing of ours has been imported when vLLM loads the plug-in, so that it can be called."""
    in_process.setenv("GLMC_REQUIRE", required)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RUNTIME], capture_output=True, text=True, check=False
    )
    assert "[GLMC-4003] glmc can't be plugged into vLLM" in done.stderr
    assert "glmc_runtime" in done.stderr and "remedy:   install glmc-runtime" in done.stderr
    assert (done.returncode != 0) == (required == "1")
    assert ("('serves', 0)" in done.stdout) == (required == "0")


def test_a_name_that_only_a_step_needs_ends_the_start(
    in_process: pytest.MonkeyPatch, artifact: Compile
) -> None:
    from vllm.v1.attention.backend import CommonAttentionMetadata

    in_process.setattr(vllm.plugins, "plugins_loaded", False)
    in_process.setenv("GLMC_ARTIFACT", str(artifact("tiny-moe")))
    in_process.delitem(CommonAttentionMetadata.__annotations__, "max_query_len")
    with pytest.raises(EngineVersionError, match="'max_query_len' of CommonAttentionMetadata"):
        start("tiny-moe", max_model_len=128)


def test_what_has_registered_stays(in_process: pytest.MonkeyPatch) -> None:
    register()
    ours: Any = ModelRegistry.models["Glm4MoeForCausalLM"]
    register()
    assert ModelRegistry.models["Glm4MoeForCausalLM"] is ours
    assert ours.model_cls.__module__ == "glmc_engines.vllm.models"
