"""A loaded face per profile; everything on the CPU, one thread."""

from __future__ import annotations

import pytest
import torch

from glmc_kunlun_emulator import EmulatedVendor, load


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["P-A", "P-B", "P-C"])
def vendor(request: pytest.FixtureRequest) -> EmulatedVendor:
    """Each profile in guard mode."""
    return load(request.param)


@pytest.fixture
def unguarded() -> EmulatedVendor:
    """Profile P-A as the wheel is: silent where the wheel is silent."""
    return load("P-A", guard=False)
