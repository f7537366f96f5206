"""Our platform for hosts: what a scheduler and the worker on it must agree on."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import torch

from glmc_engines.vllm import compat
from glmc_engines.vllm.cpu.experts import ChoosingHostExperts, HostExperts, host_experts


def test_the_scheduler_knows_the_version_of_the_runner() -> None:
    """Also where no device is visible, for which vLLM switches Triton on: resumed requests had
    lost their tokens."""
    # Older releases have one runner.
    code = (
        "from vllm.config import VllmConfig as C; print(getattr(C(), 'use_v2_model_runner', False))"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "GLMC_ENGINE_PLATFORM": "cpu"}
    environment.pop("VLLM_USE_V2_MODEL_RUNNER", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.PIPE
    )
    assert done.stdout.decode().split()[-1] == "False"


def test_experts_of_releases_whose_method_chooses_and_of_others() -> None:
    """Both compute the same; which stands for vLLM's, the parameters of ``apply`` tell."""

    def older(self: Any, layer: Any, x: Any, router_logits: Any, top_k: int) -> None: ...

    def newer(self: Any, layer: Any, x: Any, topk_weights: Any, topk_ids: Any) -> None: ...

    assert host_experts(SimpleNamespace(apply=older)) is ChoosingHostExperts
    assert host_experts(SimpleNamespace(apply=newer)) is HostExperts
    assert issubclass(host_experts(compat.experts_method()), compat.experts_method())

    layer = SimpleNamespace(w13_weight=torch.randn(3, 8, 6), w2_weight=torch.randn(3, 6, 4))
    x, weights = torch.randn(5, 6), torch.rand(5, 2)
    ids = torch.tensor([[0, 1], [2, 0], [1, 2], [0, 2], [2, 1]])
    found = HostExperts.apply(SimpleNamespace(), layer, x, weights, ids)
    wanted = torch.zeros(5, 6)
    for row, (first, second) in enumerate(ids.tolist()):
        for place, expert in enumerate((first, second)):
            gate, up = (layer.w13_weight[expert] @ x[row]).chunk(2)
            hidden = torch.nn.functional.silu(gate) * up
            wanted[row] += weights[row, place] * (layer.w2_weight[expert] @ hidden)
    torch.testing.assert_close(found, wanted)

    holder = SimpleNamespace(_experts=ChoosingHostExperts._experts)
    ChoosingHostExperts.process_weights_after_loading(holder, layer)
    again = holder.fused_experts(
        hidden_states=x,
        w1=layer.w13_weight,
        w2=layer.w2_weight,
        topk_weights=weights,
        topk_ids=ids,
        inplace=True,
    )
    assert torch.equal(again, found)
