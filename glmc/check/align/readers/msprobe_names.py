"""Names of msprobe's dumps (Ascend) as keys of tensors.

Sourced, from msprobe's docs/zh/dump/msadapter_data_dump_instruct.md and vllm-ascend's
docs/source/developer_guide/performance_and_debug/msprobe_guide.md:

* files are in ``dump_tensor_data``: ``Module.<path>.<Class>.forward.<n>.<input|output>.<i>``,
  ``Module.<path>.<Class>.forward.<n>.parameters.<name>`` and, of a call of an API,
  ``<Torch|Functional|Tensor|...>.<name>.<n>.forward.<input|output>.<i>``; ``1.1`` is the first
  element of a list; PyTorch's end in ``.pt``, those of MSAdapter in ``.npy``;
* ``dump.json`` has in ``data`` an entry for each call, with ``input_args``, ``input_kwargs``,
  ``output`` and ``parameters``, whose tensors have ``dtype``, ``shape``, ``Max``, ``Min``,
  ``Mean``, ``Norm`` and, where elements were dumped, ``data_name``.

Sourced from msprobe's own code and tests: arguments by name are files ``...kwargs.<name>``, and
``construct.json`` has the parent of each entry by its name, or null.

Inferred: ``n`` counts the calls of one module, or of one API, in a step; in the order of
``dump.json`` those of a parent follow their execution. So the calls are counted anew, as in
torch_xray: by class within the parent.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from glmc_runtime.format.tensor_key import INPUT, OUTPUT, PARAMS, TensorKey

SECTIONS = {
    "input_args": INPUT,
    "input_kwargs": INPUT,
    "input": INPUT,
    "output": OUTPUT,
    "parameters": PARAMS,
}
_KINDS = {"input": INPUT, "kwargs": INPUT, "output": OUTPUT, "parameters": PARAMS}
_MODULE = re.compile(
    r"(?:Module|Cell)\.(?:(?P<module>.+)\.)?(?P<kind>[^.]+)\.forward\.(?P<call>\d+)"
)
_API = re.compile(r"[A-Z]\w*\.(?:.+\.)?(?P<kind>[^.]+)\.(?P<call>\d+)\.forward")
_FILE = re.compile(rf"(?P<entry>.+)\.(?P<section>{'|'.join(_KINDS)})(?:\.(?P<name>.+))?")


def entry_key(entry: str, kind: str, name: str, parent: str = "") -> TensorKey | None:
    """The key of a tensor of an entry of ``dump.json``; an API's module is that of ``parent``, an
    entry, too. None for what is no forward call."""
    found = _MODULE.fullmatch(entry)
    if found is not None:
        module = found["module"] or ""
    else:
        found = _API.fullmatch(entry)
        above = _MODULE.fullmatch(parent or "")
        module = (above["module"] or "") if above else ""
    if found is None:
        return None
    return TensorKey(module, found["kind"], int(found["call"]), kind, name)


def file_key(stem: str) -> TensorKey | None:
    """The key of a file by its name alone; its calls are those that the name counts."""
    found = _FILE.fullmatch(stem)
    if found is None:
        return None
    return entry_key(found["entry"], _KINDS[found["section"]], found["name"] or "0")


class Calls:
    """Counts calls by class within their parent; entries come in order of execution."""

    def __init__(self, construct: Mapping[str, Any]) -> None:
        self._construct = construct
        self._numbers: dict[str, int] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def parent(self, entry: str) -> str:
        """The entry of the module that called this one; '' where nothing says so."""
        above = self._construct.get(entry)
        return above if isinstance(above, str) else ""

    def counted(self, entry: str, key: TensorKey) -> TensorKey:
        """The key with its call as torch_xray counts it."""
        if entry not in self._numbers:
            above = self.parent(entry) or key.module.rpartition(".")[0]
            self._numbers[entry] = self._counts[above, key.class_name]
            self._counts[above, key.class_name] += 1
        return replace(key, call=self._numbers[entry])
