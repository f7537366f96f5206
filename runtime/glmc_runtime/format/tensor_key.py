"""Keys of recorded tensors, in the grammar of torch_xray's HDF5 files.

``<module path>.<ClassName>.<call>.<kind>.<name>``: ``call`` counts the calls of modules of that
class within one call of their parent, from 0; ``kind`` is ``forward_input``, ``forward_output`` or
``forward_params``, and ``name`` a number or the name of a parameter. An op that is no module has
the op's name in the class's place: ``model.layers.0.self_attn.rope.0.forward_output.0``. Source:
vLLM-Kunlun, docs/source/developer_guide/evaluation/accuracy/accuracy_kernel.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

INPUT, OUTPUT, PARAMS = "forward_input", "forward_output", "forward_params"
KINDS = (INPUT, OUTPUT, PARAMS)
_KEY = re.compile(
    rf"(?:(?P<module>.*)\.)?(?P<class_name>[^.]+)\.(?P<call>\d+)\.(?P<kind>{'|'.join(KINDS)})\.(?P<name>.+)"
)


@dataclass(frozen=True)
class TensorKey:
    """Which tensor of which module; ``module`` is '' for the whole model."""

    module: str
    class_name: str
    call: int
    kind: str
    name: str

    def __str__(self) -> str:
        stem = f"{self.module}.{self.class_name}" if self.module else self.class_name
        return f"{stem}.{self.call}.{self.kind}.{self.name}"


def parse_key(text: str) -> TensorKey | None:
    """The key of a dataset's name; None where it is in another grammar."""
    found = _KEY.fullmatch(text)
    if found is None:
        return None
    return TensorKey(
        found["module"] or "", found["class_name"], int(found["call"]), found["kind"], found["name"]
    )
