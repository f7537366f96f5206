"""What vLLM's options ask for and plans do not have ends the start by name, before any process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from vllm.config import CompilationConfig
from vllm.engine.arg_utils import EngineArgs

from glmc_engines.core.errors import NoArtifactError, UnsupportedError
from glmc_runtime.errors import ArtifactError, GlmcError
from tests.engines.vllm.conftest import Compile
from tests.engines.vllm.reference import ROOT

Configure = Callable[..., Any]


@pytest.fixture
def configure(in_process: pytest.MonkeyPatch, artifact: Compile) -> Configure:
    """The ``VllmConfig`` of options, as a start of vLLM makes it."""
    in_process.setenv("GLMC_ARTIFACT", str(artifact("tiny-moe")))
    in_process.setenv("GLMC_REQUIRE", "1")

    def make(**options: Any) -> Any:
        model = options.pop("model", "tiny-moe")
        return EngineArgs(
            model=str(ROOT / "models" / model),
            **{"dtype": "float32", "max_model_len": 256} | options,
        ).create_engine_config()

    return make


def text_of(error: BaseException) -> str:
    """The text of an error and of those that it was made of."""
    cause = error.__cause__ or error.__context__
    return str(error) + (text_of(cause) if cause is not None else "")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"enable_lora": True}, "LoRA adapters"),
        ({"pipeline_parallel_size": 2}, "pipeline stages"),
        ({"data_parallel_size": 2}, "data parallel ranks"),
        ({"kv_cache_dtype": "fp8"}, "KV cache of another dtype"),
        ({"enable_prompt_embeds": True}, "prompt embeddings"),
        ({"hf_overrides": {"rope_theta": 5.0}}, "overrides of the checkpoint's config"),
        ({"runner": "pooling", "convert": "embed"}, "text generation"),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
            "speculative decoding",
        ),
    ],
)
def test_options_are_refused_by_name(
    configure: Configure, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(UnsupportedError, match=text):
        configure(**options)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"dtype": "bfloat16"}, NoArtifactError, "another dtype"),
        (
            {"max_model_len": 2049, "hf_overrides": {"max_position_embeddings": 4096}},
            UnsupportedError,
            "tokens of a sequence",
        ),
        ({"tensor_parallel_size": 2}, NoArtifactError, "tensor parallel ranks"),
        ({"model": "tiny-dense"}, NoArtifactError, "another model"),
    ],
)
def test_an_artifact_that_does_not_fit_is_refused(
    configure: Configure, options: dict[str, Any], kind: type[GlmcError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        configure(**options)


def test_a_folder_that_is_no_artifact_is_refused(
    configure: Configure, in_process: pytest.MonkeyPatch
) -> None:
    in_process.setenv("GLMC_ARTIFACT", "/no/such/folder")
    with pytest.raises(ArtifactError, match="no such artifact"):
        configure()


def test_the_scheduler_is_limited_to_the_artifact(configure: Configure) -> None:
    config = configure()
    assert config.scheduler_config.max_num_batched_tokens == 512
    assert config.scheduler_config.max_num_seqs == 32


def test_graphs_of_vllm_are_off_whatever_the_options_say(configure: Configure) -> None:
    mode = "mode" if "mode" in CompilationConfig.__dataclass_fields__ else "level"
    config = configure(compilation_config={mode: 3, "cudagraph_mode": "FULL"})
    compilation = config.compilation_config
    assert (int(getattr(compilation, mode)), compilation.cudagraph_mode.name) == (0, "NONE")


def test_without_need_vllm_serves_what_plans_lack(
    configure: Configure, in_process: pytest.MonkeyPatch
) -> None:
    in_process.delenv("GLMC_ARTIFACT")
    with pytest.raises(UnsupportedError):
        configure(enable_prompt_embeds=True)
    in_process.delenv("GLMC_REQUIRE")
    config = configure(enable_prompt_embeds=True)
    assert config.scheduler_config.max_num_batched_tokens > 512
