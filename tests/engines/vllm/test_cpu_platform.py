"""Our platform for hosts: what a scheduler and the worker on it must agree on."""

from __future__ import annotations

import os
import subprocess
import sys


def test_the_scheduler_knows_the_version_of_the_runner() -> None:
    """Also where no device is visible, for which vLLM switches Triton on: resumed requests had
    lost their tokens."""
    code = "from vllm.config import VllmConfig; print(VllmConfig().use_v2_model_runner)"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "GLMC_ENGINE_PLATFORM": "cpu"}
    environment.pop("VLLM_USE_V2_MODEL_RUNNER", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.PIPE
    )
    assert done.stdout.decode().split()[-1] == "False"
