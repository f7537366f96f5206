"""Every touch of vLLM that is no public convention, found by feature and not by version."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import nn

from glmc_engines.core.errors import EngineVersionError


@contextmanager
def names_of_vllm() -> Iterator[None]:
    """A name of vLLM's that is missing, as :class:`EngineVersionError`."""
    try:
        yield
    except (ImportError, AttributeError) as error:
        if not _is_of_vllm(error):
            raise
        raise EngineVersionError(
            "this release of vLLM lacks a name that the adapter needs",
            place="vLLM",
            found=str(error),
        ) from error


def _is_of_vllm(error: ImportError | AttributeError) -> bool:
    """Whether a name is missing in a module of vLLM's or in an object of its classes."""
    if isinstance(error, ImportError):
        owner = error.name or ""
    elif isinstance(error.obj, ModuleType):
        owner = error.obj.__name__
    else:
        owner = (error.obj if isinstance(error.obj, type) else type(error.obj)).__module__
    return owner.partition(".")[0] == "vllm"


def check_names() -> None:
    """Raise :class:`EngineVersionError` where the names are missing that a model or its steps ask
    for only after the model is made."""
    with names_of_vllm():
        from vllm.distributed.parallel_state import get_tp_group  # noqa: F401
        from vllm.forward_context import get_forward_context  # noqa: F401

        backend_classes()
        parameters = inspect.signature(attention_class().__init__).parameters
        metadata = _step_metadata()
    for owner, wanted, has in (
        ("Attention.__init__", _OF_ATTENTION, set(parameters)),
        (metadata.__name__, _OF_A_STEP, {*dir(metadata), *metadata.__annotations__}),
    ):
        if missing := sorted(wanted - has):
            raise EngineVersionError.missing(
                "vLLM", ", ".join(f"'{name}' of {owner}" for name in missing)
            )


_OF_ATTENTION = {"num_kv_heads", "cache_config", "prefix", "attn_backend"}
_OF_A_STEP = {
    "num_reqs",
    "num_actual_tokens",
    "max_query_len",
    "slot_mapping",
    "block_table_tensor",
    "seq_lens",
    "query_start_loc",
    "query_start_loc_cpu",
}


def _step_metadata() -> type[Any]:
    """The class of what vLLM says of a step to all builders."""
    try:
        from vllm.v1.attention.backend import CommonAttentionMetadata
    except ImportError:
        from vllm.v1.attention.backends.utils import CommonAttentionMetadata
    found: type[Any] = CommonAttentionMetadata
    return found


_in_tree: dict[str, Any] = {}
"""Entries of vLLM's registry that ours have replaced, by architecture."""


def check_registry() -> None:
    """Raise what keeps classes from being registered."""
    from vllm import ModelRegistry

    _ = ModelRegistry.register_model


def register_model(architecture: str, model: type[nn.Module]) -> None:
    """Register a class of ours for an architecture; what it replaces is kept."""
    from vllm import ModelRegistry

    known = getattr(ModelRegistry, "models", {}).get(architecture)
    if getattr(known, "model_cls", None) is model:
        return
    if known is not None:
        _in_tree.setdefault(architecture, known)
    ModelRegistry.register_model(architecture, model)


def in_tree_class(architecture: str) -> type[nn.Module]:
    """vLLM's own class of an architecture that ours has replaced."""
    entry = _in_tree.get(architecture)
    if entry is None or not hasattr(entry, "load_model_cls"):
        raise EngineVersionError.missing(
            "vLLM", f"ModelRegistry.models['{architecture}'].load_model_cls", type(entry).__name__
        )
    model: type[nn.Module] = entry.load_model_cls()
    return model


def is_registered(architecture: str, model: type[nn.Module] | None) -> bool:
    """Whether vLLM makes a model of this architecture with this class."""
    from vllm import ModelRegistry

    entry = ModelRegistry.models.get(architecture)
    return model is not None and getattr(entry, "model_cls", None) is model


def hook_config(architecture: str, prepare: Callable[[Any], bool]) -> None:
    """Have ``prepare`` called with each ``VllmConfig`` of an architecture before its engine is
    built, since the scheduler takes its limits of it."""
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig

    known = MODELS_CONFIG_MAP.get(architecture)
    if getattr(known, "of_glmc", False):
        return

    class Prepared(known or VerifyAndUpdateConfig):  # type: ignore[misc]
        of_glmc = True

        @staticmethod
        def verify_and_update_config(vllm_config: Any) -> None:
            if not prepare(vllm_config) and known is not None:
                known.verify_and_update_config(vllm_config)

    MODELS_CONFIG_MAP[architecture] = Prepared


def switch_graphs_off(config: Any) -> None:
    """No compile and no CUDA graphs of vLLM's for this model: steps are replays already, which a
    graph can't hold."""
    from vllm.config import CUDAGraphMode

    compilation = config.compilation_config
    try:
        from vllm.config import CompilationMode

        compilation.mode = CompilationMode.NONE
    except ImportError:
        from vllm.config import CompilationLevel

        compilation.level = CompilationLevel.NO_COMPILATION
    compilation.cudagraph_mode = CUDAGraphMode.NONE


def wants_graphs(config: Any) -> bool:
    """Whether there may be device graphs at all: ``--enforce-eager`` asks for none."""
    return not config.model_config.enforce_eager


def plugin_options(config: Any) -> dict[str, Any]:
    """The part of a ``VllmConfig`` that is for plug-ins, which all processes of an engine get."""
    options = getattr(config, "additional_config", None)
    return options if isinstance(options, dict) else {}


def field_of(config: Any, path: str) -> Any:
    """A field of a ``VllmConfig`` by its dotted name; None in a release that does not have it."""
    value = config
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def batch_invariant() -> bool:
    """Whether the bits of an answer shall not depend on the batch; older releases can't be asked
    for that."""
    from vllm import envs

    return bool(getattr(envs, "VLLM_BATCH_INVARIANT", False))


def uses_modelscope() -> bool:
    """Whether models come from ModelScope and not from Hugging Face."""
    from vllm import envs

    return bool(envs.VLLM_USE_MODELSCOPE)


def prefills_in_chunks(scheduler: Any) -> bool:
    """Whether a long prompt is several steps."""
    for name in ("enable_chunked_prefill", "chunked_prefill_enabled"):
        if hasattr(scheduler, name):
            return bool(getattr(scheduler, name))
    return False


def flash_attention_version() -> int | None:
    """What ``VLLM_FLASH_ATTN_VERSION`` of older releases asks for."""
    from vllm import envs

    version: int | None = getattr(envs, "VLLM_FLASH_ATTN_VERSION", None)
    return version


def device_type() -> str:
    """What torch calls the devices of vLLM's platform."""
    from vllm.platforms import current_platform

    return str(current_platform.device_type)


def cache_dtype(config: Any) -> torch.dtype | None:
    """The dtype of the KV cache that ``--kv-cache-dtype`` names; None for one that is none of
    torch's, or is packed."""
    name = config.cache_config.cache_dtype
    dtype = getattr(torch, name, None)
    return dtype if isinstance(dtype, torch.dtype) else None


def attention_class() -> type[nn.Module]:
    """vLLM's attention layer, which asks for a KV cache."""
    try:
        from vllm.model_executor.layers.attention import Attention
    except ImportError:
        from vllm.attention import Attention
    found: type[nn.Module] = Attention
    return found


def backend_classes() -> tuple[Any, Any, Any]:
    """Bases of an attention backend, of its implementation and of its metadata builder."""
    try:
        from vllm.v1.attention.backend import (
            AttentionBackend,
            AttentionImpl,
            AttentionMetadataBuilder,
        )
    except ImportError:
        from vllm.attention.backends.abstract import AttentionBackend, AttentionImpl
        from vllm.v1.attention.backends.utils import AttentionMetadataBuilder
    return AttentionBackend, AttentionImpl, AttentionMetadataBuilder


def cache_layouts() -> Any:
    """The enum of layouts of the KV cache; None in releases that ask a backend for a shape."""
    try:
        from vllm.v1.kv_cache_interface import KVCacheLayout
    except ImportError:
        return None
    return KVCacheLayout


def host_lengths(common: Any) -> torch.Tensor | None:
    """Lengths of sequences in host memory, where vLLM has them without a wait for the device."""
    for name in ("seq_lens_cpu_upper_bound", "_seq_lens_cpu", "seq_lens_cpu"):
        value = getattr(common, name, None)
        if value is not None:
            lengths: torch.Tensor = value
            return lengths
    return None


def metadata_of(layer: str) -> Any:
    """The metadata that a layer's builder has made for this step; None where vLLM runs the model
    without a KV cache, to see how much memory it takes: then no layer has any."""
    from vllm.forward_context import get_forward_context

    metadata = get_forward_context().attn_metadata
    if isinstance(metadata, list):  # one for each micro-batch
        raise EngineVersionError("a step of vLLM has several micro-batches", found=str(metadata))
    if not isinstance(metadata, dict):
        return metadata
    if layer not in metadata:
        raise EngineVersionError(
            "a step of vLLM has no metadata for a layer of the model",
            place=f"vLLM, {layer}",
            found=", ".join(sorted(metadata)[:3]) or "none for any layer",
        )
    return metadata[layer]


def cache_of(layer: Any) -> torch.Tensor | None:
    """The KV cache of an attention layer, once vLLM has allocated it."""
    cache = layer.kv_cache
    if isinstance(cache, (list, tuple)):  # one for each virtual engine
        cache = cache[0] if cache else None
    return cache if isinstance(cache, torch.Tensor) and cache.numel() else None


def tensor_parallel_group() -> tuple[Any, int, int]:
    """The group of tensor parallel ranks in torch.distributed, this process's rank in it, and its
    size."""
    from vllm.distributed.parallel_state import get_tp_group

    group = get_tp_group()
    return group.device_group, group.rank_in_group, group.world_size


def host_slot_mapping() -> None:
    """Have slots of tokens computed by torch, where vLLM has a kernel for a device: on a platform
    without one. Older releases use numpy and stay as they are."""
    from vllm.v1.worker.block_table import BlockTable

    names = list(inspect.signature(BlockTable.compute_slot_mapping).parameters)[1:]
    if names == ["num_reqs", "query_start_loc", "positions"]:
        BlockTable.compute_slot_mapping = _slot_mapping


def _slot_mapping(
    table: Any, num_reqs: int, query_start_loc: torch.Tensor, positions: torch.Tensor
) -> None:
    """The body of ``BlockTable.compute_slot_mapping``; slots after the last token are -1."""
    counts = query_start_loc[: num_reqs + 1].diff().long()
    rows = torch.repeat_interleave(torch.arange(num_reqs), counts)[: len(positions)]
    places = positions[: len(rows)].long()
    size = table.block_size
    blocks = table.block_table.gpu[rows, places // size].long()
    slots = table.slot_mapping.gpu
    slots[: len(rows)] = blocks * size + places % size
    slots[len(rows) :].fill_(-1)


def no_accelerator() -> None:
    """Let calls that wait for an accelerator, of which vLLM's ends make some on each platform but
    its own for CPUs, do nothing where there is none; and Triton stay off, which vLLM switches on
    where the list of visible devices is empty. Before torch 2.6 there are no such calls."""
    accelerator = getattr(torch, "accelerator", None)
    if (torch.cuda if accelerator is None else accelerator).is_available():
        return
    if not os.environ.get("CUDA_VISIBLE_DEVICES", "unset"):
        del os.environ["CUDA_VISIBLE_DEVICES"]
    for name in ("synchronize", "empty_cache", "empty_host_cache"):
        if hasattr(accelerator, name):
            setattr(accelerator, name, _nothing)


def _nothing(*_: Any, **__: Any) -> None:
    return None


def no_times() -> Any:
    """What a worker returns that has compiled nothing."""
    try:
        from vllm.v1.worker.worker_base import CompilationTimes
    except ImportError:
        return 0.0
    return CompilationTimes(language_model=0.0, encoder=0.0)


def set_random_seed(seed: int) -> None:
    """Seed what samples."""
    try:
        from vllm.utils.torch_utils import set_random_seed as seed_it
    except ImportError:
        from vllm.model_executor.utils import set_random_seed as seed_it
    seed_it(seed)


def experts_method() -> type[Any]:
    """vLLM's method of experts without quantisation."""
    try:
        from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
            UnquantizedFusedMoEMethod,
        )
    except ImportError:
        from vllm.model_executor.layers.fused_moe.layer import UnquantizedFusedMoEMethod
    found: type[Any] = UnquantizedFusedMoEMethod
    return found


def replace_method(name: str, method: type[Any]) -> None:
    """Have vLLM use a class of ours in place of its own of this name, once in a process."""
    from vllm.model_executor.custom_op import CustomOp

    try:
        from vllm.model_executor.custom_op import op_registry_oot as replaced
    except ImportError:
        replaced = CustomOp.op_registry_oot
    if name not in replaced:
        CustomOp.register_oot(name=name)(method)
