"""Kernels are compiled for a GPU that is not there: Triton's interpreter takes what its compiler
refuses, such as a number that changes its type in a loop, and has no instructions to look at."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import triton

STEP_INPUTS = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from glmc_runtime.kernels.cuda.step_inputs import fill_kernel

def compile(filled):
    types = {name: "*i64" for name in fill_kernel.arg_names} | {"scratch_block": "i32"}
    narrow = ("context_lengths", "cu_seqlens_q", "cu_seqlens_k", "block_tables")
    types |= {name: "*i32" for name in narrow}
    sizes = {"BLOCK_SIZE": 16, "WIDTH": 8, "TOKENS": 256, "COLUMNS": 16}
    given = {"FILLED": filled, "PDL": False, **sizes}
    types |= {name: "constexpr" for name in given}
    made = triton.compile(ASTSource(fill_kernel, types, given), target=GPUTarget("cuda", 90, 32))
    assert "cubin" in made.asm

compile(0b11111111)
compile(0b00101111)
"""


TMA_TILES = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from glmc_runtime.kernels.cuda.moe import tma_tiles

def compile(kernel, types, given, blocks):
    types = {name: types.get(name, "*i32") for name in kernel.arg_names}
    types |= {name: f"tensordesc<bf16[{rows},64]>" for name, rows in blocks.items()}
    types |= {name: "constexpr" for name in given}
    source = ASTSource(kernel, types, given)
    options = {"num_warps": 8, "num_stages": 4}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert made.metadata.shared <= 227 << 10, made.metadata.shared
    assert "cp.async.bulk.tensor" in made.asm["ptx"], "blocks do not come by TMA"
    assert "wgmma.mma_async" in made.asm["ptx"], "no tensor cores of a Hopper card"

common = {"H": 4096, "W": 1408, "WS": 1408, "SHARED": 1, "GROUP": 4, "BLOCK_M": 128, "BLOCK_K": 64,
          "STAGES": 4, "LEAST_WHOLE": 65, "WIDEN": False, "PDL": True}
types = {"activated": "*bf16", "results": "*bf16", "experts": "i32", "most": "i32"}
rows = {"rows": 128, "half_rows": 64}
compile(tma_tiles.tma_up_kernel, types, common | {"WIDEST": 1408, "BLOCKS": 11, "BLOCK_N": 128},
        rows | {"weights": 128, "shared_weights": 128})
compile(tma_tiles.tma_down_kernel, types, common | {"BLOCKS": 16, "BLOCK_N": 256},
        rows | {"weights": 256, "shared_weights": 256})
"""


@pytest.mark.skipif(
    tuple(map(int, triton.__version__.split(".")[:2])) < (3, 4), reason="has no PDL"
)
@pytest.mark.parametrize(
    "program", [STEP_INPUTS, pytest.param(TMA_TILES, marks=pytest.mark.slow)], ids=["inputs", "tma"]
)
def test_kernels_are_compiled(program: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
