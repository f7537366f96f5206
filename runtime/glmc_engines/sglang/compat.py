"""What we touch of SGLang beyond its plug-in interface, found by feature and not by version.

Each touch is a function here or a name that another module of this folder imports; both are rows
of ``SURFACE``, which ``python -m glmc_engines.surface`` reads and tests/engines/sglang tests.
Nothing of SGLang is imported with this module.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from glmc_engines.surface.uses import Use

SURFACE: tuple[Use, ...] = (
    Use(
        "sglang.srt.runtime_context.RuntimeContext.config_leaf",
        "method",
        ("name",),
        "server arguments as resolved",
        either="options",
    ),
    Use(
        "sglang.srt.runtime_context.RuntimeContext.override",
        "method",
        ("source",),
        "limits of the scheduler, before it reads them",
        optional=True,
    ),
    Use(
        "sglang.srt.runtime_context.RuntimeContext.server_args",
        "any",
        why="server arguments of releases that have no leaves",
        either="options",
    ),
    Use(
        "sglang.srt.model_executor.cuda_graph_config.Backend.DISABLED",
        "attribute",
        why="no device graphs of SGLang's around ours",
    ),
    Use(
        "sglang.srt.model_executor.cuda_graph_config.CudaGraphConfig.decode",
        "attribute",
        why="the graphs of a phase",
    ),
    Use(
        "sglang.srt.model_executor.cuda_graph_config.CudaGraphConfig.prefill",
        "attribute",
        why="the graphs of a phase",
    ),
    Use(
        "sglang.srt.layers.attention.attention_registry.ATTENTION_BACKENDS",
        "attribute",
        why="backends by name, each asked for by the one that stands in its place",
    ),
    Use(
        "sglang.srt.layers.attention.attention_registry.register_attention_backend",
        "function",
        ("name",),
        "the backend of a model of ours",
    ),
    Use(
        "sglang.srt.models.registry.ModelRegistry",
        "attribute",
        why="model classes beside those of another plug-in",
    ),
    Use(
        "sglang.srt.models.glm4_moe.Glm4MoeForCausalLM",
        "class",
        ("config", "quant_config"),
        "a model that is left to SGLang",
    ),
    Use(
        "sglang.srt.models.glm4.Glm4ForCausalLM",
        "class",
        ("config", "quant_config"),
        "a model that is left to SGLang",
    ),
    Use(
        "sglang.srt.models.transformers.TransformersForCausalLM",
        "class",
        why="a model that is left to SGLang",
    ),
    Use(
        "sglang.srt.plugins.hook_registry.HookRegistry.register",
        "method",
        ("target", "hook", "hook_type"),
        "a look at each request",
    ),
    Use(
        "sglang.srt.managers.tokenizer_manager.TokenizerManager._validate_one_request",
        "method",
        why="where an error is the answer to one request",
    ),
    Use(
        "sglang.srt.distributed.parallel_state.GroupCoordinator.device_group",
        "attribute",
        why="the group of collectives",
    ),
    Use(
        "sglang.srt.distributed.parallel_state.GroupCoordinator.rank_in_group",
        "attribute",
        why="which rank this process is",
    ),
    Use(
        "sglang.srt.distributed.parallel_state.GroupCoordinator.world_size",
        "attribute",
        why="how many ranks there are",
    ),
    Use(
        "sglang.srt.distributed.parallel_state.GroupCoordinator.broadcast_object",
        "method",
        ("obj", "src"),
        "the artifact that the first rank has found or made",
    ),
    Use(
        "sglang.srt.mem_cache.memory_pool.MHATokenToKVPool.get_kv_buffer",
        "method",
        ("layer_id",),
        "keys and values of a layer, a row for each place",
    ),
    Use(
        "sglang.srt.mem_cache.memory_pool.KVCache.page_size",
        "any",
        why="places in a page; pages are blocks",
    ),
    Use(
        "sglang.srt.mem_cache.memory_pool.KVCache.layer_num",
        "any",
        why="how many layers the pool has",
    ),
    Use(
        "sglang.srt.mem_cache.memory_pool.KVCache.start_layer",
        "any",
        why="the first layer of the pool",
    ),
    Use(
        "sglang.srt.mem_cache.memory_pool.MHATokenToKVPool.kv_cache_layout",
        "any",
        why="layouts other than places, heads, dim are refused",
        optional=True,
    ),
    Use(
        "sglang.srt.mem_cache.memory_pool.ReqToTokenPool.req_to_token",
        "any",
        why="the places of each request's tokens",
    ),
    Use(
        "sglang.srt.layers.logits_processor.LogitsProcessor.forward",
        "method",
        ("input_ids", "hidden_states", "lm_head", "logits_metadata"),
        "which rows are wanted, and what is answered of them",
    ),
    Use(
        "sglang.srt.layers.logits_processor.LogitsProcessor._compute_lm_head",
        "method",
        why="asks the head's quant_method for logits of rows",
    ),
    Use(
        "sglang.srt.model_executor.model_runner_components.weight_updater"
        "._unsupported_derived_weight_cache_error",
        "function",
        ("model",),
        "a model's own reason against other weights",
        optional=True,
    ),
)

_LOG = logging.getLogger("glmc.engines")
_IN_TREE = {
    "Glm4MoeForCausalLM": ("Glm4MoeForCausalLM", "glm4_moe"),
    "Glm4ForCausalLM": ("Glm4ForCausalLM", "glm4"),
}
_TRANSFORMERS = ("TransformersForCausalLM", "transformers")


def option(name: str, default: Any = None) -> Any:
    """A server argument as this process has it, after SGLang resolved them all; ``default`` where
    this release has no such argument."""
    from sglang.srt.runtime_context import get_context

    context = get_context()
    if hasattr(context, "config_leaf"):
        try:
            return context.config_leaf(name)
        except ValueError:
            return default
    return getattr(context.server_args, name, default)


def attention_backend() -> str:
    """The attention backends that this process was told to have, in words."""
    names = ("attention_backend", "prefill_attention_backend", "decode_attention_backend")
    return ", ".join(dict.fromkeys(filter(None, map(option, names)))) or "unset"


def set_option(**values: Any) -> None:
    """Change server arguments of this process, before whoever reads them does."""
    from sglang.srt.runtime_context import get_context

    context = get_context()
    if hasattr(context, "config_leaf"):
        context.override("glmc", **values)
        return
    for name, value in values.items():
        setattr(context.server_args, name, value)


def switch_graphs_off() -> None:
    """No device graph of SGLang's in this process: our replays launch graphs of their own, and a
    capture can't hold the launch of another. Effective until SGLang captures, after loading."""
    from sglang.srt.model_executor.cuda_graph_config import Backend, CudaGraphConfig

    config = option("cuda_graph_config") or CudaGraphConfig()
    for phase in (config.decode, config.prefill):
        phase.backend = Backend.DISABLED
    set_option(cuda_graph_config=config)


def wants_graphs() -> bool:
    """Whether the server may have device graphs: its user has not switched off those of both
    phases. What SGLang itself decides of its own graphs does not count."""

    def off(phase: str) -> bool:
        selected = option(f"cuda_graph_backend_{phase}")
        if selected is not None:
            return bool(selected == "disabled")
        return bool(option("disable_cuda_graph") or option(f"disable_{phase}_cuda_graph"))

    return not (off("decode") and off("prefill"))


def register_models(package: str) -> None:
    """Have our classes stand for their architectures, where another plug-in's package is looked
    through already."""
    from sglang.srt.models.registry import ModelRegistry

    ModelRegistry.register(package, overwrite=True)


def in_tree_class(architecture: str) -> Any:
    """SGLang's own class for an architecture of ours; its way through transformers where it has
    none."""
    from importlib import import_module

    name, module = _IN_TREE.get(architecture, _TRANSFORMERS)
    return getattr(import_module(f"sglang.srt.models.{module}"), name)


def route_attention_backends(ours: Callable[[Any], bool], make: Callable[[Any], Any]) -> None:
    """Whatever backend SGLang or its user chose by name: where ``ours`` says that a model runner
    has a model of ours, the backend is what ``make`` makes of the runner."""
    from sglang.srt.layers.attention import attention_registry as registry

    for name, original in list(registry.ATTENTION_BACKENDS.items()):
        if not getattr(original, "of_glmc", False):
            registry.register_attention_backend(name)(_routed(name, original, ours, make))


def _routed(
    name: str,
    original: Callable[[Any], Any],
    ours: Callable[[Any], bool],
    make: Callable[[Any], Any],
) -> Callable[[Any], Any]:
    def backend(runner: Any) -> Any:
        if not ours(runner):
            return original(runner)
        _LOG.info("glmc: the attention backend %s is not used, plans have their own", name)
        return make(runner)

    backend.of_glmc = True  # type: ignore[attr-defined]
    return backend


def before_each_request(check: Callable[..., None]) -> None:
    """Have ``check(manager, request, ...)`` look at each request in the process that answers, where
    an error is the answer. Takes effect when SGLang has run all plug-ins."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(
        "sglang.srt.managers.tokenizer_manager.TokenizerManager._validate_one_request",
        check,
        HookType.BEFORE,
    )


@dataclass(frozen=True)
class Ranks:
    """The ranks of a tensor-parallel group, and their group of torch.distributed."""

    rank: int
    count: int
    group: Any


def tensor_parallel() -> Ranks:
    """The tensor-parallel group that this process is in."""
    from sglang.srt.distributed import get_tp_group

    group = get_tp_group()
    return Ranks(group.rank_in_group, group.world_size, group.device_group)


def of_first_rank(value: Any) -> Any:
    """What the first rank of the tensor-parallel group calls this with, on each rank; all wait for
    it, in host memory."""
    from sglang.srt.distributed import get_tp_group

    return get_tp_group().broadcast_object(value, src=0)


@dataclass(frozen=True)
class Pools:
    """SGLang's memory of requests and of their keys and values, of one model runner.

    ``layers`` are pairs of keys and values, each ``[places, heads, dim]``; ``layout`` is the
    pool's own word for that.
    """

    req_to_token: torch.Tensor
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    page_size: int
    layout: str
    kind: str

    @classmethod
    def of(cls, runner: Any) -> Pools:
        pool = runner.token_to_kv_pool
        first = pool.start_layer or 0
        return cls(
            req_to_token=runner.req_to_token_pool.req_to_token,
            layers=tuple(
                pool.get_kv_buffer(layer) for layer in range(first, first + pool.layer_num)
            ),
            page_size=int(pool.page_size),
            layout=str(getattr(pool, "kv_cache_layout", "nhd")),
            kind=type(pool).__name__,
        )

    def same_as(self, other: Pools) -> bool:
        """Whether both are of the same memory."""
        return self._places() == other._places()

    def _places(self) -> list[object]:
        tensors = [self.req_to_token, *(tensor for layer in self.layers for tensor in layer)]
        sizes = [self.page_size, self.layout, self.kind]
        return [*((each.data_ptr(), each.shape, each.stride()) for each in tensors), *sizes]


class Head:
    """Stands for the weights of the output head: SGLang's logits processor asks its method for the
    logits of the rows that it wants. It is no module, so nobody looks for parameters in it."""

    def __init__(self, logits: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.quant_method = _HeadMethod(logits)


class _HeadMethod:
    def __init__(self, logits: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._logits = logits

    def apply(
        self, head: object, hidden: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self._logits(hidden)
