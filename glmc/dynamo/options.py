"""Options of the backend in ``torch.compile(..., options={...})``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from glmc.backends import OWN
from glmc.backends.installed import TARGETS
from glmc.config import DEFAULT_PROFILE
from glmc.errors import UsageError
from glmc_runtime.package.entry_points import entries


@dataclass(frozen=True)
class DynamoOptions:
    """``target``: xpu, cpu or cuda, by default what the inputs are on. ``dump``: a folder for the
    program after each pass. ``verify``: compare the first replay of each graph
    with the graph itself. ``abi_profile``: of the vendor's library, for xpu. ``graph_capture``:
    replay decode as a device graph where the device has them (None: where it can).
    """

    target: str | None = None
    dump: Path | None = None
    verify: bool = False
    abi_profile: str = DEFAULT_PROFILE
    graph_capture: bool | None = None


PLACE = "torch.compile(..., options={...})"

_KINDS: Mapping[str, tuple[type, ...]] = {
    "target": (str,),
    "dump": (str, Path),
    "verify": (bool,),
    "abi_profile": (str,),
    "graph_capture": (bool,),
}
_EXAMPLES: Mapping[str, str] = {
    "target": "'cpu'",
    "dump": "'some/folder'",
    "verify": "True",
    "abi_profile": f"'{DEFAULT_PROFILE}'",
    "graph_capture": "False",
}


def read_options(given: Mapping[str, Any] | None) -> DynamoOptions:
    """Check and read; raises UsageError for an unknown option or a value of the wrong kind."""
    given = dict(given or {})
    known = [field.name for field in fields(DynamoOptions)]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UsageError(
            f"backend 'kunlun' has no option {_named(unknown)}",
            place=PLACE,
            expected="one of " + ", ".join(known),
            found=", ".join(unknown),
            remedy=f"rename or leave out {_named(unknown)} in options={{...}}",
        )
    for name, value in given.items():
        if value is not None and not isinstance(value, _KINDS[name]):
            raise UsageError(
                f"option '{name}' of backend 'kunlun' has the wrong kind",
                place=PLACE,
                expected=" or ".join(kind.__name__ for kind in _KINDS[name]),
                found=repr(value),
                remedy=f"write options={{'{name}': {_EXAMPLES[name]}}}",
            )
    present = {name: value for name, value in given.items() if value is not None}
    if "dump" in present:
        present["dump"] = Path(present["dump"])
    target = present.get("target")
    targets = (*OWN, *entries(TARGETS))
    if target is not None and target not in targets:
        raise UsageError(
            f"backend 'kunlun' has no target '{target}'",
            place=PLACE,
            expected="one of " + ", ".join(targets),
            found=target,
            remedy="write options={'target': 'cpu'}, say, or leave it out: the device of the "
            "inputs decides",
        )
    return DynamoOptions(**present)


def _named(names: list[str]) -> str:
    return ", ".join(map(repr, names))
