"""What is mutated: each spelling of the zoo, as the program that the passes see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.program import Program
from glmc.pipeline import runner
from tests.mutation import programs
from tests.passes.test_add_rms_norm import BranchFirst, Stack
from tests.passes.test_gate_up_merge import Fused, Mlp, UpFirst
from tests.passes.test_shared_expert import Block as SharedBlock
from tests.passes.test_shared_expert import Flat, FlatShared, FlatSum, SharedFirst
from tests.support.traced import Traced, trace
from tests.zoo import attends, experts, gate, norm, rotations
from tests.zoo.attention import Sizes, exported

# Of the pass that gives a family its name: the ops that its patterns become.
OPS: dict[str, tuple[str, ...]] = {
    "attention": ("glmc.attention", "glmc.masked_attention"),
    "moe_gate": ("glmc.moe_gate",),
    "moe_ffn": ("glmc.moe_ffn", "glmc.shared_expert"),
    "rms_norm": ("glmc.rms_norm", "glmc.add_rms_norm"),
    "rope": ("glmc.rope",),
    "gate_up_merge": ("glmc.swiglu", "glmc.silu_mul"),
    "shared_expert": ("glmc.shared_expert",),
    "add_rms_norm": ("glmc.add_rms_norm",),
    "canonical": ("glmc.linear",),
}
Alter = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """Values of the inputs by name, and of the weights."""

    name: str
    inputs: Mapping[str, Tensor]
    held: Mapping[str, Tensor]


@dataclass(frozen=True)
class Subject:
    """``spelling`` in one phase: ``stateless`` as captured, ``traced`` as Dynamo leaves it."""

    family: str
    spelling: str
    phase: str
    trace: Callable[[], Traced]

    @property
    def name(self) -> str:
        return f"{self.family}.{self.spelling}.{self.phase}"


@dataclass(frozen=True)
class Base:
    """A subject traced: its program before any pass, what became of it, and what it is run on."""

    program: Program
    fused: Program
    cases: tuple[Case, ...]
    results: tuple[tuple[Any, ...], ...]
    inside: tuple[str, ...]
    count: int
    anchors: frozenset[tuple[str, str]]
    misses: int


@cache
def base(subject: Subject) -> Base:
    traced = _traced(subject.trace)
    raw = traced.program.copy()
    raw.phase = subject.phase
    program, _ = programs.copied(raw)
    programs.propagate(program)
    fused, _ = programs.copied(program)
    programs.propagate(fused)
    records = runner.fuse(fused)
    record = next(each for each in records if each.name == subject.family)
    cases = tuple(_cases(subject, program, traced.module))
    return Base(
        program,
        fused,
        cases,
        tuple(programs.run(program, case.inputs, case.held) for case in cases),
        _inside(program, fused, subject.family),
        fused_count(fused, subject.family),
        frozenset(
            (node.meta["id"], m.op_name(node))
            for node in program.graph.nodes
            if node.meta["id"] in {match.node for match in record.matches}
        ),
        len(record.near_misses),
    )


@cache
def _traced(trace: Callable[[], Traced]) -> Traced:
    return trace()


def fused_count(program: Program, family: str) -> int:
    return sum(m.is_op(node, *OPS[family]) for node in program.graph.nodes)


def _inside(program: Program, fused: Program, family: str) -> tuple[str, ...]:
    """Nodes that the pattern's ops stand for, what those read, and what reads them."""
    taken: set[str] = set()
    for node in fused.graph.nodes:
        if m.is_op(node, *OPS[family]):
            taken.update(node.meta.get("origins", (node.meta["id"],)))
    left = {node.meta["id"] for node in fused.graph.nodes}
    others = {
        name
        for node in fused.graph.nodes
        if m.is_op(node, "glmc.moe_gate") and family != "moe_gate"
        for name in node.meta.get("origins", ())
    }
    own = [
        node
        for node in program.graph.nodes
        if node.meta["id"] in taken or node.meta["id"] not in left | others
    ]
    near = {each for node in own for each in (node, *node.all_input_nodes, *node.users)}
    return tuple(
        node.name for node in program.graph.nodes if node in near and node.op == "call_function"
    )


def _cases(subject: Subject, program: Program, module: nn.Module) -> Iterator[Case]:
    """Random values; quiet ones, where an eps decides; loud ones, where one score wins; equal
    rows; corrections of both signs, which tell one fill of masked groups from another; and a mask
    that leaves a query nothing to see."""
    generator = torch.Generator().manual_seed(7)
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    held = {name: value.detach() for name, value in held.items()}
    nodes = {node.meta["input"]: node for node in program.inputs()}

    def drawn(scale: float) -> dict[str, Tensor]:
        return {name: _drawn(name, node, scale, generator) for name, node in nodes.items()}

    yield Case("random", drawn(1.0), held)
    yield Case("quiet", drawn(1e-3), _altered(held, _quiet))
    yield Case("loud", drawn(20.0), _altered(held, _loud))
    if any(name.endswith("bias") and "gate" in subject.family for name in held):
        yield Case("signs", drawn(1.0), _altered(held, _signs))
    if "mask" in nodes:
        yield Case("hidden", _altered(drawn(1.0), _hidden), held)


def _altered(held: Mapping[str, Tensor], alter: Alter) -> dict[str, Tensor]:
    return {name: alter(name, value) for name, value in held.items()}


def _quiet(name: str, value: Tensor) -> Tensor:
    return value * 2.0**-9 if name.endswith(("embed.weight", "embedding.weight")) else value


def _loud(name: str, value: Tensor) -> Tensor:
    return value * 6 if name.endswith(("q_proj.weight", "embedding.weight")) else value


def _hidden(name: str, value: Tensor) -> Tensor:
    """Of the last query every key, of the others some."""
    if name != "mask":
        return value
    hidden = value > 0.5
    hidden[-1, ..., -1, :] = True
    return value.masked_fill(hidden, -torch.inf)


def _signs(name: str, value: Tensor) -> Tensor:
    if not name.endswith("bias") or not value.is_floating_point():
        return value
    return torch.linspace(-1.5, 0.5, value.numel(), dtype=value.dtype).reshape(value.shape)


def _drawn(name: str, node: Node, scale: float, generator: torch.Generator) -> Tensor:
    value = node.meta["val"]
    shape = [programs.example_size(size) for size in value.shape]
    if name == "positions":
        return torch.randint(0, 20000, shape, generator=generator)
    if not value.is_floating_point():
        return torch.randint(0, 20, shape, generator=generator)
    drawn = (scale * torch.randn(shape, generator=generator)).to(value.dtype)
    # A mask of zeros as well: as flags it has both of them.
    return drawn.relu() if name == "mask" else drawn


class Masked(nn.Module):
    """Attention whose mask is an input, as a program that is only traced may have it."""

    def __init__(self, sdpa: bool) -> None:
        super().__init__()
        self.sdpa = sdpa
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            each(x).view(*x.shape[:2], 2, 8).transpose(1, 2)
            for each in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.sdpa:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return (q @ k.transpose(-1, -2) * 8**-0.5 + mask).softmax(-1) @ v


class Square(nn.Module):
    """A product with a square weight, whose transpose fits as well."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(6, 6))
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight, self.bias)


_PRODUCTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linear": lambda x, w, b: F.linear(x, w, b),
    "matmul": lambda x, w, b: x @ w.t(),
    "matmul_permuted": lambda x, w, b: x @ w.permute(1, 0),
    "mm": lambda x, w, b: torch.mm(x.reshape(-1, 6), w.transpose(0, 1)),
    "addmm": lambda x, w, b: torch.addmm(b, x.reshape(-1, 6), w.t()),
    "einsum": lambda x, w, b: torch.einsum("bti,oi->bto", x, w),
}


def _seeded(make: Callable[[], nn.Module], *inputs: Tensor) -> Callable[[], Traced]:
    def traced() -> Traced:
        torch.manual_seed(0)
        return trace(make(), *inputs, first=())

    return traced


def _stack(kind: type[Stack]) -> Callable[[], Traced]:
    def traced() -> Traced:
        result = _seeded(kind, torch.zeros(2, 5, dtype=torch.int64))()
        object.__setattr__(result.program.model, "hidden", 16)
        return result

    return traced


def _all() -> Iterator[Subject]:
    both = ("stateless", "traced")

    def of(
        family: str, spelling: str, make: Callable[[], Traced], phases: tuple[str, ...] = both[1:]
    ) -> Iterator[Subject]:
        for phase in phases:
            yield Subject(family, spelling, phase, make)

    x = torch.randn(2, 5, gate.HIDDEN)
    for kind in (*gate.SPELLINGS, *gate.SETTINGS):
        yield from of("moe_gate", kind.__name__, _seeded(kind, x), _phases(kind is gate.Gate))
    x = torch.randn(6, gate.HIDDEN)
    for routed in experts.SPELLINGS:
        first = routed in (experts.Batched, experts.BatchedExpanded)
        yield from of("moe_ffn", routed.__name__, _seeded(routed, x), _phases(first))
    x = torch.randn(2, 5, 24)
    for normed in norm.SPELLINGS:
        make: Any = _norm(normed)
        yield from of("rms_norm", normed.__name__, _seeded(make, x), _phases(True))
    x = torch.randn(2, 5, 16)
    for mlp in (Mlp, UpFirst, Fused):
        yield from of("gate_up_merge", mlp.__name__, _seeded(mlp, x), _phases(mlp is Mlp))
    for shared in (SharedBlock, SharedFirst, Flat, FlatSum, FlatShared):
        yield from of("shared_expert", shared.__name__, _seeded(shared, x))
    for stack in (Stack, BranchFirst):
        yield from of("add_rms_norm", stack.__name__, _stack(stack))
    x = torch.randn(2, 5, 6)
    for name, function in _PRODUCTS.items():
        yield from of("canonical", name, _seeded(_square(function), x))
    for name, each in attends.SPELLINGS.items():
        sizes = Sizes(scale=0.3125 if each.scaled else None)
        parts = attends.parts(each.attend)
        phases = both[:1] if name == "marked" else both
        yield from of("attention", name, _block(parts, sizes), phases)
    for name, sdpa in (("mask_given", False), ("mask_given_sdpa", True)):
        x, mask = torch.randn(2, 7, 16), torch.randn(2, 1, 7, 7)
        yield from of("attention", name, _masked(sdpa, x, mask))
    for name, turned in rotations.SPELLINGS.items():
        yield from of("rope", name, _block(turned.parts, Sizes()), both)


def _phases(first: bool) -> tuple[str, ...]:
    """Passes that don't ask for the phase see both in one spelling."""
    return ("stateless", "traced") if first else ("traced",)


def _block(parts: Any, sizes: Sizes) -> Callable[[], Traced]:
    return lambda: exported(parts, sizes)


def _masked(sdpa: bool, *inputs: Tensor) -> Callable[[], Traced]:
    return _seeded(lambda: Masked(sdpa), *inputs)


def _norm(kind: type[norm.RmsNorm]) -> Callable[[], nn.Module]:
    return lambda: kind(24)


def _square(function: Callable[..., Tensor]) -> Callable[[], nn.Module]:
    return lambda: Square(function)


# Spellings that are refused, with a reason, once their sizes are fixed.
NOT_TAKEN = (
    *(f"attention.{name}.traced" for name in ("eager_where", "eager_fill", "bmm")),
    *(f"rope.{name}.traced" for name in ("neox_matmul", "interleaved_matmul")),
    *(f"rope.neox_sections_of_{name}.traced" for name in ("tables", "angles")),
    "moe_ffn.BatchedExpanded.traced",
)
SUBJECTS: dict[str, Subject] = {
    subject.name: subject for subject in _all() if subject.name not in NOT_TAKEN
}
