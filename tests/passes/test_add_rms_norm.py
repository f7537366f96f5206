"""add_rms_norm: which sums are the residual stream, refusals, and bitwise equal results."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from glmc.passes import add_rms_norm, canonical, clean, rms_norm
from tests.support.traced import Traced, conditions, trace
from tests.zoo.norm import RmsNorm

torch.set_num_threads(1)
HIDDEN, VOCABULARY, LAYERS = 16, 20, 2
FIRST = (canonical.PASS, clean.PASS, rms_norm.PASS)


class Stack(nn.Module):
    """A residual stream: two branches a layer, a norm before each, one at the end."""

    sandwich = False

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.norms = nn.ModuleList(RmsNorm(HIDDEN) for _ in range(2 * LAYERS + 1))
        self.after = nn.ModuleList(RmsNorm(HIDDEN) for _ in range(2 * LAYERS))
        self.branches = nn.ModuleList(
            nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(2 * LAYERS)
        )

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for norm, branch, after in zip(self.norms, self.branches, self.after, strict=False):
            out = branch(norm(x))
            x = self.added(x, after(out) if self.sandwich else out)
        return self.norms[-1](x)  # type: ignore[no-any-return]

    def added(self, stream: Tensor, branch: Tensor) -> Tensor:
        return stream + branch


class BranchFirst(Stack):
    def added(self, stream: Tensor, branch: Tensor) -> Tensor:
        return branch + stream


class Sandwich(Stack):
    """glm4: the branch is normed before it is added."""

    sandwich = True


class Alpha(Stack):
    def added(self, stream: Tensor, branch: Tensor) -> Tensor:
        return torch.add(stream, branch, alpha=2)


class Broadcast(Stack):
    def added(self, stream: Tensor, branch: Tensor) -> Tensor:
        return stream + branch[:, :1]


class MixedDtypes(Stack):
    def added(self, stream: Tensor, branch: Tensor) -> Tensor:
        return stream + branch.bfloat16()


class Doubled(Stack):
    """Both operands are the stream."""

    def added(self, stream: Tensor, branch: Tensor) -> Tensor:
        return (stream + branch) + stream


class NoStream(Stack):
    """What is normed is the sum of two branches."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norms[0](self.embedding(ids))
        return self.norms[1](self.branches[0](x) + self.branches[1](x))  # type: ignore[no-any-return]


def traced(kind: type[nn.Module], dtype: torch.dtype = torch.float32) -> Traced:
    torch.manual_seed(0)
    ids = torch.randint(VOCABULARY, (2, 5))
    program = trace(kind().to(dtype), ids, first=FIRST)
    hidden = program.program.model
    object.__setattr__(hidden, "hidden", HIDDEN)
    return program


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (Stack, torch.float32),
        (Stack, torch.bfloat16),
        pytest.param(BranchFirst, torch.float32, marks=pytest.mark.slow),
        (BranchFirst, torch.bfloat16),
        (Sandwich, torch.float32),
        pytest.param(Sandwich, torch.bfloat16, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_fires(kind: type[Stack], dtype: torch.dtype) -> None:
    program = traced(kind, dtype)
    inputs = [torch.randint(VOCABULARY, size) for size in ((1, 1), (3, 40))]
    before = [program(x)[0] for x in inputs]
    result = program.apply(add_rms_norm.PASS)
    assert (len(result.matches), conditions(result)) == (2 * LAYERS, [])
    assert len(program.nodes("glmc.rms_norm")) == 1 + (2 * LAYERS if kind.sandwich else 0)
    assert not program.nodes("aten.add")
    stream: object = program.nodes("glmc.embedding")[0]
    for node in program.nodes("glmc.add_rms_norm"):
        assert node.args[1] is stream
        items = {user.args[1]: user for user in node.users}
        stream = items.get(1)
        assert set(items) == ({0} if stream is None else {0, 1})
    for x, old in zip(inputs, before, strict=True):
        assert torch.equal(program(x)[0], old)
        assert torch.equal(program(x)[0], program.eager(x)[0])
    text = program.text()
    again = program.apply(add_rms_norm.PASS)
    assert (again.matches, again.near_misses, program.text()) == ([], [], text)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Alpha, "the residual addition must be unscaled"),
        (Broadcast, "the residual addition must not broadcast"),
        (MixedDtypes, "stream and branch must have the same dtype"),
        (Doubled, "one operand must be the residual stream, not 2"),
        (NoStream, "one operand must be the residual stream, not 0"),
    ],
)
def test_refuses(kind: type[Stack], reason: str) -> None:
    program = traced(kind)
    text = program.text()
    result = program.apply(add_rms_norm.PASS)
    assert not result.matches
    assert conditions(result) and all(reason in found for found in conditions(result))
    assert program.text() == text


def test_the_stream_goes_on_behind_a_sum_that_is_not_normed() -> None:
    """A layer whose norm is missing adds to the stream all the same."""

    class Gap(Stack):
        def forward(self, ids: Tensor) -> Tensor:
            x = self.embedding(ids)
            x = x + self.branches[0](self.norms[0](x))
            x = x + self.branches[1](x)
            return self.norms[1](self.branches[2](x) + x)  # type: ignore[no-any-return]

    program = traced(Gap)
    x = torch.randint(VOCABULARY, (2, 9))
    before = program(x)[0]
    assert len(program.apply(add_rms_norm.PASS).matches) == 1
    assert torch.equal(program(x)[0], before)


def test_norms_of_heads_are_not_candidates() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = RmsNorm(HIDDEN // 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm((x + x.flip(0)).view(-1, 2, HIDDEN // 2))  # type: ignore[no-any-return]

    program = trace(Heads(), torch.randn(4, HIDDEN), first=FIRST)
    assert len(program.nodes("glmc.rms_norm")) == 1
    result = program.apply(add_rms_norm.PASS)
    assert (result.matches, result.near_misses) == ([], [])
