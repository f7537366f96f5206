"""Kernels that only an outer engine launches are compiled for a GPU that is not there: Triton's
interpreter takes what its compiler refuses, such as a number that changes its type in a loop."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import triton

PROGRAM = """
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


@pytest.mark.skipif(
    tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3), reason="compiles otherwise"
)
def test_step_inputs() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
