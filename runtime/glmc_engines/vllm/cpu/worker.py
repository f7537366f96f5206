"""vLLM's worker with the host in place of a device."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from vllm.platforms import current_platform
from vllm.v1.worker.gpu_worker import Worker, init_worker_distributed_environment

from glmc_engines.core.errors import EngineVersionError
from glmc_engines.vllm import compat
from glmc_engines.vllm.cpu.experts import register_experts


class HostWorker(Worker):  # type: ignore[misc]
    """One rank, in host memory."""

    def init_device(self) -> None:
        from vllm.v1.worker.cpu_model_runner import CPUModelRunner

        if getattr(self.vllm_config, "use_v2_model_runner", False):
            raise EngineVersionError(
                "vLLM schedules for model runner V2, and its runner for CPUs is V1",
                place="vLLM, worker of the test aid for CPUs",
                remedy="leave out the option that asks for V2",
            )
        compat.host_slot_mapping()
        register_experts()
        self.device = torch.device("cpu")
        init_worker_distributed_environment(
            self.vllm_config,
            self.rank,
            self.distributed_init_method,
            self.local_rank,
            current_platform.dist_backend,
        )
        compat.set_random_seed(self.model_config.seed)
        self.model_runner = CPUModelRunner(self.vllm_config, self.device)

    def _maybe_get_memory_pool_context(self, tag: str) -> Any:
        return contextlib.nullcontext()

    def determine_available_memory(self) -> int:
        return int(self.cache_config.kv_cache_memory_bytes)

    def compile_or_warm_up_model(self) -> Any:
        self.model_runner._dummy_run(1)
        compat.set_random_seed(self.model_config.seed)
        return compat.no_times()

    def sleep(self, level: int = 1) -> None:
        """The KV cache is lost, as on a device; weights stay where they are."""
        for cache in self.model_runner.kv_caches:
            cache.zero_()

    def wake_up(self, tags: list[str] | None = None) -> None:
        return None
