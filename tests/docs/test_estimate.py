"""docs/estimate.md: what is predicted beside NCCL is what the description of the H200 gives."""

from __future__ import annotations

from glmc.estimates.collectives import group_of
from glmc.estimates.device_file import read_device
from glmc_runtime.format.algorithms import LIBRARY
from tests.docs.markdown import ROOT, section, table_rows

PAGE = ROOT / "docs" / "estimate.md"
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20}


def test_predictions_beside_nccl_are_those_of_the_device() -> None:
    text = section(PAGE, "Several cards")
    group = group_of(read_device("h200"), 2)
    assert group is not None
    entry = group.entry("bfloat16")
    shares = {}
    for size, measured, predicted, share in table_rows(text):
        number, unit = size.split()
        seconds = group.all_reduce(LIBRARY, int(number) * UNITS[unit], entry)
        assert predicted == f"{1e6 * seconds:.1f}", size
        shares[size] = 1e6 * seconds / float(measured)
        assert share == f"{100 * shares[size]:.0f} %", size
    between = [shares[size] for size in ("1 MiB", "2 MiB", "4 MiB")]
    said = f"from 1 to 4 MiB it is {100 * min(between):.0f} to {100 * max(between):.0f} % of"
    assert said in " ".join(text.split())
