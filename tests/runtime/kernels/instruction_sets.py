"""The kernels in C as each set of instructions of this processor has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glmc_runtime.kernels.cpu import compiled, decode_library

SETS = {
    "native": (),
    "no bfloat16": ("-mno-avx512bf16",),
    "no AVX-512": ("-mno-avx512f",),
    "no AVX2": ("-mno-avx512f", "-mno-avx2", "-mno-fma"),
}
"""What is taken away from ``-march=native``; only an x86 processor has the others."""
_FLAGS = Path("/proc/cpuinfo")


def _is_x86() -> bool:
    return _FLAGS.is_file() and " sse2 " in _FLAGS.read_text()


@pytest.fixture(params=SETS)
def each_instruction_set(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The library of a decode step, with less than this processor has."""
    without = SETS[request.param]
    if without and not _is_x86():
        pytest.skip("no x86 processor")
    monkeypatch.setitem(compiled.FLAGS_OF, "decode", (*compiled.FLAGS_OF["decode"], *without))
    compiled.library.cache_clear()
    decode_library._library.cache_clear()
    if decode_library._library() is None:
        pytest.skip("nothing can be compiled here")
    yield
    monkeypatch.undo()
    compiled.library.cache_clear()
    decode_library._library.cache_clear()
