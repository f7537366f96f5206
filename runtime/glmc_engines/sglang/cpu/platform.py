"""The CPU as an out-of-tree platform: facts that SGLang asks, and torch's own attention."""

from __future__ import annotations

from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from sglang.srt.platforms.device_mixin import PlatformEnum

from glmc_engines.sglang.cpu.pools import base


class CpuPlatform(base()):  # type: ignore[misc]
    """Device ``cpu`` with nothing but torch: no Triton, no kernels of SGLang's, no graphs."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"

    def get_device_total_memory(self, device_id: int = 0) -> int:
        return int(psutil.virtual_memory().total)

    def get_current_memory_usage(self, device: Any = None) -> float:
        memory = psutil.virtual_memory()
        return float(memory.total - memory.available)

    def get_available_memory(self, device_id: int = 0) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def get_device(self, device_id: int = 0) -> torch.device:
        return torch.device("cpu")

    def set_device(self, device: Any) -> None:
        """There is one."""

    def get_device_name(self, device_id: int = 0) -> str:
        return "cpu"

    def get_device_capability(self, device_id: int = 0) -> None:
        return None

    def get_torch_distributed_backend_str(self) -> str:
        return "gloo"

    def apply_server_args_defaults(self, server_args: Any) -> None:
        # SGLang's own choice for a CPU needs its kernel package where the processor has AMX.
        if server_args.attention_backend in (None, "intel_amx"):
            server_args.attention_backend = "torch_native"

    def get_default_attention_backend(self) -> str:
        return "torch_native"

    def get_compile_backend(self, mode: str | None = None) -> str:
        return "eager"

    def get_dispatch_key_name(self) -> str:
        return "native"
