"""The numbers of a device that weigh one dtype against another (``--dtype auto``)."""

from __future__ import annotations

from glmc.estimates.device import Device
from glmc.estimates.device_file import read_device
from glmc.job import Job
from glmc.range_check.cost import Rates

WEIGHED_ON = "p800"
"""The device by whose numbers a dtype for Kunlun is weighed."""


def rates_for(job: Job) -> Rates | None:
    """What a decision of the job's dtype is told to cost by; None where there is none to make."""
    return rates_of(read_device(WEIGHED_ON)) if job.undecided else None


def rates_of(device: Device) -> Rates:
    """Products by dtype and reads of a device, and whose numbers they are."""
    return Rates(
        device.title,
        {dtype: number.value for dtype, number in device.product.items()},
        device.read.value,
        f"{device.product['float16'].kind} figures" if device.third_party else "measured",
    )
