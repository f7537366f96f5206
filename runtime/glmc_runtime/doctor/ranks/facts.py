"""What is publicly known of collectives on Kunlun, as data. Nothing here is the vendor's word.

``OURS`` is what our own reading says; other sources are threads of public repositories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KUNLUN, ANYWHERE = "xpu", ""


@dataclass(frozen=True)
class Variable:
    """A variable of the environment. Its value is wrong where it is one of ``wrong``, and worth a
    remark where it is none of ``wanted`` (an empty tuple: any value, and none, will do). It only
    counts for ``target`` where that is not empty."""

    name: str
    target: str
    wrong: tuple[str, ...]
    wanted: tuple[str, ...]
    why: str
    remedy: str
    source: str


VARIABLES = (
    Variable(
        "XPU_EVENT_KL3_ENABLE",
        ANYWHERE,
        ("1",),
        (),
        "with collectives, waiting for an event spins for ever in most runs",
        "unset XPU_EVENT_KL3_ENABLE",
        "measured by a third party: 16 of 18 runs",
    ),
    Variable(
        "BKCL_CHECK_AW",
        KUNLUN,
        (),
        ("0",),
        "unless it is exactly 0, a check of address windows may refuse a group of two or more",
        "the probe 'window' says whether it does here",
        "vLLM-Kunlun issues 382 and 420: groups of two",
    ),
    Variable(
        "BKCL_FORCE_SYNC",
        KUNLUN,
        (),
        ("1",),
        "recipes for GLM-4.7 on several cards set it to 1, for stability",
        "BKCL_FORCE_SYNC=1 if steps of several cards hang",
        "vLLM-Kunlun issue 187",
    ),
)
"""Looked at by the probe 'environment'."""

ADDRESS_WINDOW = "addr_window"
"""What a group says that the check of address windows refuses."""
NO_WINDOW_CHECK = {"BKCL_CHECK_AW": "0"}
"""What leaves that check out. Only the text 0 does; it was seen to let groups of two add rightly,
and is not documented."""

VISIBLE_CARDS = ("XPU_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
"""Variables that say which cards a process sees; the first that is set counts."""

QUADS = (frozenset(range(4)), frozenset(range(4, 8)))
"""The cards among which a group of four can be formed (FastDeploy issue 2794)."""

LINK_TOOLS = ("xpu_smi", "xpu-smi")
LINK_ARGUMENTS = (("xpulink", "-s"), ("topo", "-m"))
"""What shows the links of the cards, by the first tool and arguments that answer."""

DEVICE_FILES = "/dev/xpu[0-9]*"
DRIVER_OPTION = "PcieLink"
DRIVER_OPTION_FILES = "/sys/module/*/parameters/PcieLink"
"""Machines whose cards are on PCIe alone need this option of the driver to be 1; Linux shows the
options of a driver that exports them here. Whether this one does is not known."""

Owner = Literal["BKCL", "NCCL", "torch", "gloo", "OpenMP", "Python", "glmc"]
SEGMENTS: tuple[tuple[Owner, str], ...] = (
    ("BKCL", r"(?i)^.*(bkcl|xccl|kccl).*$"),
    ("NCCL", r"^nccl-\w+$"),
    ("torch", r"^torch_(?P<pid>\d+)_.*$"),
    ("gloo", r"(?i)^gloo.*$"),
    ("OpenMP", r"^__KMP_REGISTERED_LIB_(?P<pid>\d+)_\d+$"),
    ("Python", r"^(psm_|sem\.mp-|wnsm_)\w+$"),
    ("glmc", r"^glmc.*$"),
)
"""Names of files in /dev/shm by who makes them; ``pid`` is the process where the name says it.
Which names BKCL takes is not documented: any with its own name in it is taken for one."""
