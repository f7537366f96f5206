"""A vLLM platform on the device "cpu", for a vLLM without compiled extensions."""

from __future__ import annotations

import os
from typing import Any

import torch
from vllm.platforms.interface import Platform, PlatformEnum

from glmc_engines.vllm import compat

compat.no_accelerator()  # each process of vLLM imports this module
# A scheduler that takes its runner for version 2, as it does where it has found Triton, tells it of
# resumed requests in a way that the runner here, of version 1, takes for something else.
os.environ.update(VLLM_USE_V2_MODEL_RUNNER="0")

KV_BYTES = 64 << 20
"""KV cache where no option says how large it is."""


class HostPlatform(Platform):  # type: ignore[misc]
    """Facts of the host, and the classes that run a model on it."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"  # of torch: vLLM makes a device of it
    device_type = "cpu"
    dispatch_key = "CPU"
    dist_backend = "gloo"
    simple_compile_backend = "eager"
    device_control_env_var = "GLMC_VISIBLE_DEVICES"

    @property
    def supported_dtypes(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float32, torch.float16]

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        return "cpu"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    @classmethod
    def get_current_memory_usage(cls, device: Any = None) -> float:
        with open("/proc/self/statm") as file:
            return float(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @classmethod
    def is_pin_memory_available(cls) -> bool:
        return False

    def is_sleep_mode_available(self) -> bool:
        return True

    @classmethod
    def check_if_supports_dtype(cls, dtype: torch.dtype) -> None:
        return None

    @classmethod
    def inference_mode(cls) -> Any:
        return torch.no_grad()

    @classmethod
    def set_device(cls, device: torch.device) -> None:
        return None

    @classmethod
    def manual_seed_all(cls, seed: int) -> None:
        return None

    @classmethod
    def num_compute_units(cls, device_id: int = 0) -> int:
        return torch.get_num_threads()

    @classmethod
    def support_hybrid_kv_cache(cls) -> bool:
        return False

    @classmethod
    def opaque_attention_op(cls) -> bool:
        return True

    @classmethod
    def import_kernels(cls) -> None:
        return None

    @classmethod
    def import_ir_kernels(cls) -> None:
        return None

    @classmethod
    def check_runner_kv_caches_multi_layer(cls) -> None:
        return None

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        return (
            "vllm.distributed.device_communicators.base_device_communicator.DeviceCommunicatorBase"
        )

    @classmethod
    def get_attn_backend_cls(cls, selected_backend: Any, *_: Any, **__: Any) -> str:
        return "glmc_engines.vllm.cpu.attention.HostAttentionBackend"

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        parallel, cache = vllm_config.parallel_config, vllm_config.cache_config
        scheduler = vllm_config.scheduler_config
        if parallel.worker_cls == "auto":
            parallel.worker_cls = "glmc_engines.vllm.cpu.worker.HostWorker"
        if parallel.distributed_executor_backend is None:
            parallel.distributed_executor_backend = "uni"
        if hasattr(parallel, "disable_custom_all_reduce"):
            parallel.disable_custom_all_reduce = True
        if not getattr(cache, "user_specified_block_size", False):
            cache.block_size = 16
        if getattr(cache, "kv_cache_memory_bytes", None) is None:
            cache.kv_cache_memory_bytes = KV_BYTES
        if hasattr(scheduler, "async_scheduling"):
            scheduler.async_scheduling = False
        compat.switch_graphs_off(vllm_config)
        vllm_config.compilation_config.cudagraph_capture_sizes = []
