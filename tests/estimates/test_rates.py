"""Rates of a device for a decision: as its file has them, and whose numbers they are."""

from __future__ import annotations

from pathlib import Path

from glmc.config import CompileOptions
from glmc.estimates.device_file import read_device
from glmc.estimates.rates import rates_for, rates_of
from glmc.job import read_job

TINY = Path(__file__).parents[2] / "models" / "tiny-dense"


def test_a_p800_multiplies_bfloat16_at_the_rate_of_float32() -> None:
    rates = rates_of(read_device("p800"))
    assert rates.flops["bfloat16"] == rates.flops["float32"] < rates.flops["float16"] / 2
    assert rates.source == "third-party figures"


def test_numbers_of_ours_are_not_told_as_others() -> None:
    assert rates_of(read_device("h200")).source == "measured"


def test_only_an_undecided_job_has_rates() -> None:
    assert rates_for(read_job(TINY, CompileOptions())) is None
    job = read_job(TINY, CompileOptions(target="xpu", dtype="auto"))
    rates = rates_for(job)
    assert rates is not None and rates.device == "Kunlun P800"
