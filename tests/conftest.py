"""One thread per test process: the suite runs in two processes, and sums stay in one order."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest

# Tiny graphs trace faster without torch's cache of fake results: it never pays for its keys.
os.environ.setdefault("TORCH_FAKE_TENSOR_DISPATCH_CACHE", "0")
# Nor does a search for circles after each compile of Dynamo.
os.environ.setdefault("TORCH_DYNAMO_RUN_GC_AFTER_COMPILE", "0")

import torch

# Triton reads it while it is imported, so it is set before anything can import Triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(1)
# A trace makes many objects and hardly any circles: a tenth of its time went into looking for them.
gc.freeze()
gc.set_threshold(50_000, 20, 100)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files that share traces run in one process."""
    from tests.support.scheduling import by_group

    return by_group(config, log) if config.option.dist == "loadfile" else None


def pytest_configure(config: pytest.Config) -> None:
    """What :func:`pytest_sessionfinish` has set aside is put back last of all."""
    config.add_cleanup(gc.unfreeze)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """pytest looks for garbage five times when it ends: in a process that has traced hundreds of
    models each takes seconds, and the first finds what there is."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _quick_export() -> Iterator[None]:
    """Traces of tiny modules don't make torch's tables anew each time."""
    from tests.support.quick_export import keep_tables
    from tests.support.quick_functional import quick_functional

    with pytest.MonkeyPatch.context() as patch:
        keep_tables(patch)
        quick_functional(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave nothing in the user's cache but the library of CPU kernels, which takes seconds
    to compile."""
    from contextlib import suppress

    from glmc_runtime.kernels.cpu.kept import NotOwnError, cache_folder

    folder = tmp_path_factory.mktemp("cache")
    with suppress(NotOwnError, OSError, RuntimeError):
        (folder / "kernels").symlink_to(cache_folder("kernels"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLMC_CACHE", str(folder))
        yield


@pytest.fixture(scope="module")
def shared_captures() -> Iterator[None]:
    """Compiles of this module share captures with others; for tests of what is after capture."""
    from tests.support.captures import remembered

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glmc.compiler.capture", remembered)
        patch.setattr("glmc.range_check.decide.capture", remembered)
        yield
