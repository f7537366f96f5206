"""Stacked experts of a module, and the per-expert tensors of a file."""

from __future__ import annotations

_GATE_UP = ".mlp.experts.gate_up_proj"
_DOWN = ".mlp.experts.down_proj"

NamedShape = tuple[str, tuple[int, ...]]


def expert_parts(name: str, shape: tuple[int, ...]) -> list[NamedShape]:
    """The file tensors whose data, one after the other, are the stacked parameter ``name``.

    ``gate_up_proj`` [experts, 2 * width, hidden] is gate then up of expert 0, of expert 1, ...;
    ``down_proj`` [experts, hidden, width] is one matrix per expert. Any other parameter is stored
    under its own name.
    """
    if name.endswith(_GATE_UP):
        prefix = name.removesuffix("gate_up_proj")
        single = (shape[1] // 2, shape[2])
        return [
            (f"{prefix}{expert}.{half}_proj.weight", single)
            for expert in range(shape[0])
            for half in ("gate", "up")
        ]
    if name.endswith(_DOWN):
        prefix = name.removesuffix("down_proj")
        return [(f"{prefix}{expert}.down_proj.weight", shape[1:]) for expert in range(shape[0])]
    return [(name, shape)]
