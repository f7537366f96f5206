"""Whole random programs: blocks, their inputs, and what changes between two calls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.random_programs.attentions import (
    Attention,
    AttentionSettings,
    attentions,
    new_cache,
)
from tests.random_programs.parts import (
    Mlp,
    MlpSettings,
    Moe,
    MoeSettings,
    mlps,
    moes,
    norm_of,
    norms,
)

HIDDEN = 32
RESIDUALS = ("before", "after", "scaled", "turned", "in place", "none")
CHANGES = ("none", "scaled", "part", "loaded", "replaced", "data", "swapped", "cast")
BLOCKS = ("attention", "mlp", "moe")
Settings = AttentionSettings | MlpSettings | MoeSettings


@dataclass(frozen=True)
class Program:
    """``seed`` is that of weights and inputs; ``tokens`` of the calls, one after the other."""

    blocks: tuple[Settings, ...]
    norm: str
    residual: str
    batch: int
    tokens: tuple[int, ...]
    changes: tuple[str, ...]
    dtype: str
    dynamic: bool | None
    turned_input: bool
    seed: int

    def model(self) -> Model:
        torch.manual_seed(self.seed)
        return Model(self).eval()

    def inputs(self, call: int) -> list[Tensor]:
        """x, positions, and one cache for each attention."""
        generator = torch.Generator().manual_seed(self.seed * 31 + call)
        tokens, dtype = self.tokens[call], getattr(torch, self.dtype)
        x = torch.randn(self.batch, tokens, HIDDEN, generator=generator).to(dtype)
        if self.turned_input:
            x = x.transpose(1, 2).contiguous().transpose(1, 2)
        positions = torch.arange(tokens).expand(self.batch, tokens).contiguous() + 2 * call
        attending = [one for one in self.blocks if isinstance(one, AttentionSettings)]
        return [x, positions, *(new_cache(one, self.batch, dtype) for one in attending)]


class Model(nn.Module):
    def __init__(self, program: Program) -> None:
        super().__init__()
        kinds = {AttentionSettings: Attention, MlpSettings: Mlp, MoeSettings: Moe}
        self.program = program
        self.blocks = nn.ModuleList(kinds[type(one)](one, HIDDEN) for one in program.blocks)  # type: ignore[abstract, arg-type]
        self.norms = nn.ModuleList(norm_of(program.norm, HIDDEN) for _ in program.blocks)

    def _joined(self, x: Tensor, added: Tensor) -> Tensor:
        kind = self.program.residual
        if kind == "none":
            return added
        if kind == "scaled":
            return torch.add(x, added, alpha=0.5)
        if kind == "turned":
            return added + x
        return x + added

    def forward(self, x: Tensor, positions: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        given, more = iter(caches), []
        for block, norm in zip(self.blocks, self.norms, strict=True):
            read = x if self.program.residual == "after" else norm(x)
            if isinstance(block, Attention):
                out, other = block(read, positions, next(given))
                more.append(other)
            elif isinstance(block, Moe):
                out, other = block(read)
                more.append(other)
            else:
                out = block(read)
            if self.program.residual == "in place":
                out.add_(x)
                x = out
            else:
                x = self._joined(x, norm(out) if self.program.residual == "after" else out)
        return (x, *more)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    names = draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=2))
    made = {"attention": attentions, "mlp": mlps, "moe": moes}
    calls = draw(st.sampled_from([2, 2, 3]))
    same = draw(st.sampled_from([True, True, False]))
    tokens = st.sampled_from([1, 3, 4, 5])
    first = draw(tokens)
    return Program(
        blocks=tuple(draw(made[name]()) for name in names),  # type: ignore[operator]
        norm=draw(norms()),
        residual=draw(st.sampled_from(RESIDUALS)),
        batch=draw(st.integers(1, 3)),
        tokens=tuple(first if same else draw(tokens) for _ in range(calls)),
        changes=tuple(draw(st.sampled_from(CHANGES)) for _ in range(calls - 1)),
        dtype=draw(st.sampled_from(["float32"] * 5 + ["float64", "bfloat16"])),
        dynamic=draw(st.sampled_from([None, None, True])),
        turned_input=draw(st.sampled_from([False, False, True])),
        seed=draw(st.integers(0, 2**16)),
    )


def change(model: nn.Module, kind: str) -> None:
    """The same for two models of one program; weights stay of a size that keeps values near 1."""
    state = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    held = [value for _, value in sorted(state.items()) if value.dim() > 0]
    if kind == "scaled":
        for value in held:
            value.mul_(0.75)
    elif kind == "part":
        for value in held:
            value[1:].neg_()
    elif kind == "loaded":
        model.load_state_dict({name: value * 0.5 + 0.01 for name, value in state.items()}, False)
    elif kind == "replaced":
        for module in model.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, buffer * 0.5)
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter * 0.5, requires_grad=False))
    elif kind == "data":
        for parameter in model.parameters():
            parameter.data = parameter.data.flip(0)
    elif kind == "swapped":
        alike = [one for one in model.parameters() if one.dim() == 2]
        for one, other in zip(alike[::2], alike[1::2], strict=False):
            if one.shape == other.shape:
                one.data, other.data = other.data, one.data
    elif kind == "cast":
        model.to(torch.float64)
        model.to(torch.float32)
