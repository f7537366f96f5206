"""What vLLM's options ask for and plans do not have ends the start by name, before any process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import vllm
from packaging.version import Version
from vllm.config import CompilationConfig
from vllm.engine.arg_utils import EngineArgs

from glmc_engines.core.counters import shared_counts
from glmc_engines.core.errors import NoArtifactError, UnsupportedError
from glmc_engines.vllm import compat
from glmc_engines.vllm.limits import (
    LIMITS,
    Limit,
    _graphs_are_off,
    check_determinism,
    check_experts,
    prepare,
    unsupported,
)
from glmc_engines.vllm.option_uses import SURFACE
from glmc_runtime.errors import ArtifactError, GlmcError
from glmc_runtime.format.manifest import Ranks
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
        ({"cpu_offload_gb": 1}, "weights in host memory"),
        ({"hf_config_path": str(ROOT / "models" / "tiny-dense")}, "config from elsewhere"),
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


@pytest.mark.parametrize(
    ("options", "off"),
    [
        ({}, False),
        ({"compilation_config": {"cudagraph_mode": "FULL"}}, False),
        ({"compilation_config": {"cudagraph_mode": "NONE"}}, True),
        ({"enforce_eager": True}, True),
    ],
)
def test_plans_capture_no_graphs_where_the_options_ask_for_none(
    configure: Configure, options: dict[str, Any], off: bool
) -> None:
    config = configure(**options)
    prepare(config)  # as where the model is built
    assert compat.wants_graphs(config) is not off


def test_the_lowest_level_of_optimisation_has_no_graphs(configure: Configure) -> None:
    if "optimization_level" in EngineArgs.__dataclass_fields__:
        assert not compat.wants_graphs(configure(optimization_level=0))
        full = configure(optimization_level=0, compilation_config={"cudagraph_mode": "FULL"})
        assert compat.wants_graphs(full)
        return
    mode = "mode" if "mode" in CompilationConfig.__dataclass_fields__ else "level"
    assert not compat.wants_graphs(configure(compilation_config={mode: 0}))


@pytest.mark.parametrize(
    ("levels", "off"),
    [
        ({"optimization_level": 0, "mode": None}, True),
        ({"optimization_level": 2, "mode": 0}, False),  # graphs without torch.compile
        ({"level": 0}, True),
        ({"level": 3}, False),
        ({"mode": 0}, True),
        ({"mode": None}, False),
    ],
)
def test_where_releases_have_the_level_of_optimisation(levels: dict[str, Any], off: bool) -> None:
    compilation = SimpleNamespace(cudagraph_mode=None, **levels)
    config = SimpleNamespace(compilation_config=compilation)
    if "optimization_level" in levels:
        config.optimization_level = levels["optimization_level"]
    assert _graphs_are_off(config) is off


def test_without_need_vllm_serves_what_plans_lack(
    configure: Configure, in_process: pytest.MonkeyPatch
) -> None:
    in_process.delenv("GLMC_ARTIFACT")
    with pytest.raises(UnsupportedError):
        configure(enable_prompt_embeds=True)
    in_process.delenv("GLMC_REQUIRE")
    config = configure(enable_prompt_embeds=True)
    assert config.scheduler_config.max_num_batched_tokens > 512


def made_up(path: str = "", value: object = None) -> Any:
    """A config that asks for nothing, but for one field by its dotted name."""
    config = SimpleNamespace(
        model_config=SimpleNamespace(runner_type="generate", dtype=None, hf_overrides={}),
        parallel_config=SimpleNamespace(),
        cache_config=SimpleNamespace(cache_dtype="auto"),
    )
    *holders, name = path.split(".")
    holder = config
    for each in holders:
        if not hasattr(holder, each):
            setattr(holder, each, SimpleNamespace())
        holder = getattr(holder, each)
    if name:
        setattr(holder, name, value)
    return config


FIELDS = [(limit, field) for limit in LIMITS for field in limit.fields]


@pytest.mark.parametrize(("limit", "field"), FIELDS, ids=[field for _, field in FIELDS])
def test_each_field_is_refused_by_the_name_of_its_option(limit: Limit, field: str) -> None:
    for off in (None, False, *limit.off):
        assert unsupported(made_up(field, off)) == []
    (error,) = unsupported(made_up(field, 2))
    assert limit.feature in error.message and limit.option in error.place


NOT_IN_0_11 = {
    "--ubatch-size",
    "--offload-group-size",
    "--offload-backend",
    "--prefill-context-parallel-size",
    "--weight-transfer-config",
    "--enable-return-routed-experts",
}


def test_each_option_is_in_the_config_of_this_release(configure: Configure) -> None:
    """A field that has moved would be passed over in silence."""
    config = configure()
    missing = {
        limit.option for limit in LIMITS if not any(has(config, each) for each in limit.fields)
    }
    assert missing == (NOT_IN_0_11 if Version(vllm.__version__) < Version("0.12") else set())


def test_each_field_can_be_looked_up_in_any_release() -> None:
    names = {use.name.rpartition(".")[2] for use in SURFACE}
    assert {field.rpartition(".")[2] for limit in LIMITS for field in limit.fields} <= names


def has(config: Any, path: str) -> bool:
    *holders, name = path.split(".")
    for each in holders:
        config = getattr(config, each, None)
    return hasattr(config, name)


@pytest.mark.parametrize("asked", [False, True])
def test_experts_are_placed_as_the_option_says(asked: bool) -> None:
    config = SimpleNamespace(parallel_config=SimpleNamespace(enable_expert_parallel=asked))

    def header(ranks: Ranks) -> Any:
        return SimpleNamespace(path="artifact", manifest=SimpleNamespace(ranks=ranks))

    check_experts(config, header(Ranks(2, expert_parallel=asked)))
    check_experts(config, header(Ranks()))  # one rank has all of them in any case
    with pytest.raises(NoArtifactError, match="on each rank") as caught:
        check_experts(config, header(Ranks(2, expert_parallel=not asked)))
    assert f"compile {'with' if asked else 'without'} --expert-parallel" in caught.value.remedy


def test_bits_that_do_not_depend_on_the_batch_need_an_artifact_that_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def header(promise: str | None) -> Any:
        return SimpleNamespace(path="artifact", manifest=SimpleNamespace(deterministic=promise))

    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "0")
    check_determinism(header(None))
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    if not compat.batch_invariant():
        pytest.skip("this release has no such variable")
    check_determinism(header("batch"))
    with pytest.raises(UnsupportedError, match="depend on the batch"):
        check_determinism(header(None))


@contextmanager
def lines_of(name: str) -> Iterator[list[str]]:
    """What a logger says."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def test_a_class_of_vllms_own_is_refused_where_plans_are_required(
    configure: Configure, in_process: pytest.MonkeyPatch
) -> None:
    """Nothing of ours is asked for such a model, whatever its architecture."""
    with pytest.raises(UnsupportedError, match="a class that is none of glmc's"):
        configure(model_impl="transformers")
    in_process.setenv("GLMC_REQUIRE", "0")  # an artifact is still named
    with pytest.raises(UnsupportedError, match="Transformers"):
        configure(model_impl="transformers")
    in_process.delenv("GLMC_ARTIFACT")
    with lines_of("vllm.glmc") as lines:
        configure(model_impl="transformers")
    assert any("does not serve" in line and "Transformers" in line for line in lines)
    assert [count.value for count in shared_counts() if count.name == "serves"] == [0]
