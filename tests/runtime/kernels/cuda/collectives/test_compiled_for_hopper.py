"""Kernels over the memory of peers, compiled for a GPU that is not there: the memory orders of the
flags are in the code, at system scope, and one compile serves all ranks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import triton

from glmc_runtime.collectives.over_peers import LEAST_TRITON

PROGRAM = """
import re
import torch
import triton
from triton.backends.compiler import GPUTarget

class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)
    def get_current_device(self):
        return 0
    def get_current_stream(self, device):
        return 0

triton.runtime.driver.set_active(Driver())

from glmc_runtime.kernels.cuda.collectives import all_reduce_add_rms_norm, tiles
from glmc_runtime.kernels.cuda.collectives.one_shot import one_shot
from glmc_runtime.kernels.cuda.collectives.peers import PeerMemory
from glmc_runtime.kernels.cuda.collectives.two_shot import two_shot

made = {}

def launch(kernel, grid, *args, pdl, **meta):
    compiled = kernel.warmup(*args, grid=grid, PDL=True, launch_pdl=True, **meta)
    made.setdefault(kernel.__name__, set()).add(compiled.hash)
    order = compiled.asm["ptx"]
    assert re.search(r"atom\\.global\\.sys\\.release\\.exch\\.b64", order), order
    assert re.search(r"atom\\.global\\.sys\\.acquire\\.add\\.u64", order), order
    # What an atomic operation found goes to all threads, through shared memory, before it is used.
    waits = order[re.search(r"sys\\.acquire\\.add", order).end():]
    shuffle = waits.find("shfl.")
    assert "ld.shared" in waits[: shuffle if shuffle >= 0 else None], waits[:2000]
    assert "cubin" in compiled.asm

for module in (all_reduce_add_rms_norm, tiles):
    module.launch = launch
x = torch.zeros(2, 2048, dtype=torch.bfloat16)
for rank in (0, 1, 7):
    addresses = tuple((1 << 40) + (one << 24) for one in range(8))
    peer = PeerMemory(rank, addresses, torch.zeros(2, dtype=torch.int64))
    same = {name: x for name in ("x", "residual", "out", "total")}
    for thunk in (
        *one_shot(peer, x.view(-1)),
        *two_shot(peer, x.view(-1)),
        *all_reduce_add_rms_norm.all_reduce_add_rms_norm(
            peer, {**same, "weight": x[0], "eps": 1e-5}
        ),
    ):
        thunk()
assert len(made) == 3 and all(len(hashes) == 1 for hashes in made.values()), made
"""


@pytest.mark.long
@pytest.mark.skipif(
    tuple(map(int, triton.__version__.split(".")[:2])) < LEAST_TRITON, reason="is too old"
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="bench.gpu.virtual_ranks runs them there")
def test_flags_are_released_and_acquired_by_all_of_the_system() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
