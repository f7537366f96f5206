"""A rotation, read by probing: its positions, frequencies, scaling and pairing.

The tables are evaluated at several sizes and at small, large and unordered positions and compared
with ``rope_table``; then the rotation itself is evaluated on random values and compared, bit for
bit, with ``apply_rope``. A traced program may be given other frequencies and any positions in its
next call: there both are random.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops.rotary import apply_rope, rope_table
from glmc.ir.probe import evaluate, example_shape, known_sizes, leaves
from glmc.ir.program import Program
from glmc.ir.recipe import Constant
from glmc.ir.signature import once, signature

_TABLE_SHAPES = (
    *m.CASTS,
    *m.SHAPES,
    "aten.slice",
    "aten.repeat_interleave",
    "aten.expand",
    "aten.cat",
    "aten.permute",
    "aten.stack",
    "aten.select",
    "aten.index",
    "aten.repeat",
)
# Polynomials, cosines and sines agree at all positions where they agree at many.
_ARITHMETIC = (
    *("aten.mul", "aten.div", "aten.add", "aten.sub", "aten.neg", "aten.cos", "aten.sin"),
    *("aten.mm", "aten.bmm", "aten.matmul", "aten.einsum"),
)
_POSITION_SHAPES = (*m.SHAPES, "aten.expand", "aten.permute")
_SIZES = ((1, 1), (2, 5), (3, 4))
# Traced programs are probed up to there, on both sides of 0: beyond the context of any model.
_FARTHEST = 1 << 20
_TABLE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Rotation:
    """``x`` is [batch, heads, tokens, head_dim] when ``heads_first``, else token-major."""

    x: Node
    root: Node
    positions: Node
    frequencies: Node
    interleaved: bool
    scaling: float
    heads_first: bool


@dataclass(frozen=True)
class _Probe:
    """One set of concrete values: positions int64 [batch, tokens]."""

    known: dict[Node, Tensor]
    positions: Tensor
    frequencies: Tensor


def read_rotation(
    program: Program, x: Node, root: Node, cos: Node, sin: Node, rotary_dim: int
) -> Rotation:
    """Read and verify; refuses with the first condition that does not hold."""
    m.require(m.dtype(cos) == m.dtype(x) == m.dtype(sin), cos, "the table must have x's dtype")
    m.require(m.dtype(root) == m.dtype(x), root, "the rotation must keep the dtype")
    heads_first = _heads_first(cos)
    m.require(_heads_first(sin) == heads_first, sin, "cos and sin must have one layout")
    angle, scaling = _trigonometry(cos, "aten.cos")
    sin_angle, sin_scaling = _trigonometry(sin, "aten.sin")
    m.require(scaling == sin_scaling, sin, "cos and sin must be scaled alike")
    frequencies = _frequencies(program, cos, sin)
    positions = _positions(angle)
    m.require(_positions(sin_angle) is positions, sin, "cos and sin must be of the same positions")
    batch, tokens = m.shape(x)[0], m.shape(x)[2 if heads_first else 1]
    # What a program was traced with may have one row of positions for the whole batch.
    rows = (str(batch),) if program.assumes.step_inputs else (str(batch), "1")
    m.require(
        [str(size) for size in m.shape(positions)[1:]] == [str(tokens)]
        and str(m.shape(positions)[0]) in rows,
        positions,
        "the positions must be [batch, tokens]",
    )
    width = m.shape(cos)[-1]
    m.require(
        m.shape(sin)[-1] == width and width in (rotary_dim, rotary_dim // 2),
        cos,
        "the table must be as wide as the rotated entries, or half as wide",
    )

    def probe() -> bool:
        _require_smooth((cos, sin), {positions, frequencies})
        return _pairing(program, x, root, (cos, sin), positions, frequencies, scaling, rotary_dim)

    spelling = ("rotation", scaling, rotary_dim, signature(root, (x,)))
    interleaved = once(program, spelling, probe)
    return Rotation(x, root, positions, frequencies, interleaved, scaling, heads_first)


def _pairing(
    program: Program,
    x: Node,
    root: Node,
    tables: tuple[Node, Node],
    positions: Node,
    frequencies: Node,
    scaling: float,
    rotary_dim: int,
) -> bool:
    """Whether pairs are interleaved; refuses when tables or rotation are something else."""
    cos, sin = tables
    heads_first = _heads_first(cos)
    pairings = {True, False}
    for probe in _probes(program, positions, frequencies):
        table = rope_table(probe.positions, probe.frequencies, scaling, m.dtype(x))
        values = tuple(_table_values(node, probe, heads_first) for node in (cos, sin))
        pairings &= _pairings(values, table, cos, sin, rotary_dim)
        pairings &= _matches_rotation(
            program, x, root, probe, values, heads_first, rotary_dim, pairings
        )
        if not pairings:
            m.refuse(root, "the pairs must be (i, i + half) or (2i, 2i + 1) in and out")
    return pairings.pop()


def _heads_first(table: Node) -> bool:
    sizes = m.shape(table)
    if len(sizes) == 4 and m.is_static(sizes[1]) and sizes[1] == 1:
        return True
    m.require(
        len(sizes) == 4 and m.is_static(sizes[2]) and sizes[2] == 1,
        table,
        "the table must be one for all heads",
    )
    return False


def _trigonometry(table: Node, name: str) -> tuple[Node, float]:
    """(angle, scaling) of a table that is ``cos(angle) * scaling`` up to its shape."""
    node, scaling = table, 1.0
    while not m.is_op(node, name):
        if m.is_op(node, "aten.cat", "aten.stack"):
            node = m.argument(node, 0)[0]  # type: ignore[index]
        elif m.is_op(node, "aten.select"):
            node = _selected(node)
        elif m.is_op(node, "aten.mul"):
            factor = m.number(m.argument(node, 1))
            if factor is None:
                m.refuse(node, "the scaling of the table must be a number")
            scaling *= float(factor)
            node = m.operand(node, 0)
        elif m.is_op(node, *_TABLE_SHAPES):
            node = m.operand(node, 0)
        else:
            spelled = m.op_name(node) or node.op
            m.refuse(node, f"the table must come from {name} but comes from {spelled}")
    return m.operand(node, 0), scaling


def _selected(select: Node) -> Node:
    """What a select came from: of a stack along the same dimension, the part that it picks."""
    source, axis, index = m.operand(select, 0), m.argument(select, 1), m.argument(select, 2)
    if not m.is_op(source, "aten.stack"):
        return source
    parts, rank = m.argument(source, 0), len(m.shape(source))
    stacked = m.argument(source, 1, "dim", 0)
    if int(axis) % rank != int(stacked) % rank:  # type: ignore[call-overload]
        return source
    return parts[index]  # type: ignore[index, no-any-return]


def _frequencies(program: Program, cos: Node, sin: Node) -> Node:
    weights = [node for node in leaves(cos) | leaves(sin) if "weight" in node.meta]
    m.require(len(weights) == 1, cos, "the table must read one constant, the frequencies")
    weight = program.weight_of(weights[0])
    m.require(
        weight is not None and (_is_live(program) or isinstance(weight.recipe, Constant)),
        weights[0],
        "the frequencies must be constant, not a parameter",
    )
    m.require(m.dtype(weights[0]).is_floating_point, weights[0], "the frequencies must be floats")
    return weights[0]


def _require_smooth(tables: tuple[Node, Node], starts: set[Node]) -> None:
    """A frequency or position of the next call may take a branch that no probe has taken: so
    nothing rounds, limits or compares between ``starts`` and the tables."""
    stack, seen = list(tables), set(starts)
    while stack:
        node = stack.pop()
        if node in seen or not isinstance(node.meta.get("val"), Tensor):
            continue
        seen.add(node)
        stack.extend(node.all_input_nodes)
        m.require(_is_smooth(node), node, "the table must be computed alike of all positions")


def _is_smooth(node: Node) -> bool:
    if m.is_op(node, *_ARITHMETIC):
        tensors = all(isinstance(each.meta.get("val"), Tensor) for each in node.all_input_nodes)
        return tensors and m.dtype(node).is_floating_point
    if m.is_op(node, *m.CASTS) and m.dtype(m.operand(node, 0)).is_floating_point:
        return m.dtype(node).is_floating_point
    return m.is_op(node, *_TABLE_SHAPES)


def _is_live(program: Program) -> bool:
    """Whether the frequencies are read in each call, and not built into a table."""
    return not program.assumes.constant_weights


def _positions(angle: Node) -> Node:
    """The integers that the angle is made of."""
    queue, seen = [angle], {angle}
    for node in queue:
        if not node.meta["val"].dtype.is_floating_point:
            rows = _rows_of_positions(node)
            m.require(m.dtype(rows) == torch.int64, rows, "the positions must be int64")
            return rows
        for operand in node.all_input_nodes:
            if operand not in seen and isinstance(operand.meta.get("val"), Tensor):
                seen.add(operand)
                queue.append(operand)
    m.refuse(angle, "the table must depend on integer positions")


def _rows_of_positions(node: Node) -> Node:
    """The first value above ``node`` that holds the same integers, [batch, tokens] if there is
    one: what a program computes its positions from may have another rank."""
    first, rows = node, None
    while True:
        if len(m.shape(first)) == 2:
            rows = first
        if not (m.is_op(first, *_POSITION_SHAPES) or _widens(first)):
            return rows or first
        if not isinstance(m.operand(first, 0).meta.get("val"), Tensor):
            return rows or first
        first = m.operand(first, 0)


def _widens(node: Node) -> bool:
    """A cast of int64 to itself. From anything else it may round, or give another dtype than that
    which kernels read."""
    if not m.is_op(node, *m.CASTS):
        return False
    return m.dtype(node) == m.dtype(m.operand(node, 0)) == torch.int64


def _probes(program: Program, positions: Node, frequencies: Node) -> list[_Probe]:
    generator = torch.Generator().manual_seed(0)
    limit = max(program.model.maximum_positions, 8)
    probes = []
    sizes = _SIZES
    if not program.assumes.any_size:
        sizes = (example_shape(positions),) * 3  # type: ignore[assignment]
    for number, (batch, tokens) in enumerate(sizes):
        low, high = (0, limit) if number else (0, 2)
        if number and _is_live(program):
            low, high = -_FARTHEST, _FARTHEST
        at = torch.randint(low, high, (batch, tokens), generator=generator)
        values = _some_frequencies(program, frequencies, generator)
        token_ids = torch.randint(0, 100, (batch, tokens), generator=generator)
        known = {node: token_ids for node in program.inputs() if node.meta["input"] == "token_ids"}
        known |= {node: at for node in program.inputs() if node.meta["input"] == "positions"}
        known |= known_sizes(program)  # type: ignore[arg-type]
        known |= {positions: at, frequencies: values}
        probes.append(_Probe(known, at, values.flatten()))
    return probes


def _some_frequencies(program: Program, node: Node, generator: torch.Generator) -> Tensor:
    """The program's own where they are constant, else random ones."""
    weight = program.weight_of(node)
    if weight is None:
        m.refuse(node, "the frequencies must be a weight")
    if isinstance(weight.recipe, Constant):
        values = torch.tensor(weight.recipe.values, dtype=torch.float64)
        return values.to(weight.dtype).reshape(weight.shape)
    return torch.randn(weight.shape, generator=generator).to(weight.dtype)


def _table_values(node: Node, probe: _Probe, heads_first: bool) -> Tensor:
    values: Tensor = evaluate(node, probe.known).squeeze(1 if heads_first else 2)
    return values.expand(*probe.positions.shape, -1)


def _pairings(
    values: tuple[Tensor, ...],
    table: tuple[Tensor, ...],
    cos: Node,
    sin: Node,
    rotary_dim: int,
) -> set[bool]:
    """Which pairings (interleaved or not) the tables' own layout allows."""
    m.require(
        2 * table[0].shape[-1] == rotary_dim, cos, "there must be one frequency for each pair"
    )
    allowed = {True, False}
    for node, value, expected in zip((cos, sin), values, table, strict=True):
        if value.shape[-1] == rotary_dim:
            layouts = {
                False: torch.cat((expected, expected), -1),
                True: expected.repeat_interleave(2, -1),
            }
        else:
            layouts = dict.fromkeys((True, False), expected)
        allowed &= {kind for kind, layout in layouts.items() if _close(value, layout)}
        if not allowed:
            m.refuse(node, "the table must hold cos and sin of positions times frequencies")
    return allowed


def _close(value: Tensor, expected: Tensor) -> bool:
    tolerance = max(_TABLE_TOLERANCE, torch.finfo(value.dtype).eps)
    return torch.allclose(value.float(), expected.float(), rtol=tolerance, atol=tolerance)


def _matches_rotation(
    program: Program,
    x: Node,
    root: Node,
    probe: _Probe,
    tables: tuple[Tensor, ...],
    heads_first: bool,
    rotary_dim: int,
    candidates: set[bool],
) -> set[bool]:
    """Those of ``candidates`` that give what the graph gives, bit for bit."""
    heads, width = m.shape(x)[1 if heads_first else 2], m.shape(x)[-1]
    generator = torch.Generator().manual_seed(1)
    leading = probe.positions.shape
    if not program.assumes.any_size:
        leading = torch.Size((example_shape(x)[0], *leading[1:]))
    random = torch.randn(*leading, int(heads), int(width), generator=generator)
    value = random.to(m.dtype(x))
    rotated = evaluate(root, {**probe.known, x: value.transpose(1, 2) if heads_first else value})
    got = rotated.transpose(1, 2) if heads_first else rotated
    pairings = set()
    for interleaved in candidates:
        cos, sin = (_half(table, interleaved, rotary_dim) for table in tables)
        if torch.equal(got, apply_rope(value, cos, sin, interleaved)):
            pairings.add(interleaved)
    return pairings


def _half(table: Tensor, interleaved: bool, rotary_dim: int) -> Tensor:
    if table.shape[-1] != rotary_dim:
        return table
    return table[..., 0::2] if interleaved else table[..., : rotary_dim // 2]
