"""No value of an input is frozen: what holds a weight, how it is written and how often in one call
make no difference, and everybody reads a tensor of the program's own kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.dynamo.compiled import fusions, watched
from tests.support.thinned import thinned

TARGETS = pytest.mark.parametrize("target", thinned(["cpu", "xpu"], long=["xpu"]))


def compiled(function: Any, target: str) -> Any:
    torch._dynamo.reset()
    return torch.compile(function, backend="kunlun", options={"target": target})


def random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Weights that are no parameters.


class Gated(nn.Module):
    """gate and up of an MLP, held as ``hold`` says, with biases."""

    def __init__(self, hold: Callable[[nn.Module, str, Tensor], None]) -> None:
        super().__init__()
        for number, name in enumerate(("gate", "up")):
            hold(self, f"{name}_weight", random(24, 16, seed=number))
            hold(self, f"{name}_bias", random(24, seed=number + 5))

    def forward(self, x: Tensor) -> Tensor:
        gate = F.linear(x, self.gate_weight, self.gate_bias)  # type: ignore[arg-type]
        return F.silu(gate) * F.linear(x, self.up_weight, self.up_bias)  # type: ignore[arg-type]


def _buffer(module: nn.Module, name: str, value: Tensor) -> None:
    module.register_buffer(name, value)


def _passing(module: nn.Module, name: str, value: Tensor) -> None:
    module.register_buffer(name, value, persistent=False)


def _parameter(module: nn.Module, name: str, value: Tensor) -> None:
    module.register_parameter(name, nn.Parameter(value, requires_grad=False))


def _turned(module: nn.Module, name: str, value: Tensor) -> None:
    """In non-contiguous memory."""
    module.register_buffer(name, value.t().contiguous().t())


def _attribute(module: nn.Module, name: str, value: Tensor) -> None:
    setattr(module, name, value)


def _scale(model: nn.Module) -> None:
    model.gate_weight.mul_(2)  # type: ignore[operator, union-attr]


def _part(model: nn.Module) -> None:
    model.up_bias[3:9].zero_()  # type: ignore[operator, union-attr, index]


def _through_a_view(model: nn.Module) -> None:
    model.up_weight.view(-1).neg_()  # type: ignore[operator, union-attr]


def _other_data(model: nn.Module) -> None:
    model.gate_bias.data = random(24, seed=11)  # type: ignore[union-attr]


def _other_tensor(model: nn.Module) -> None:
    kind = type(model.up_weight)
    model.up_weight = kind(random(24, 16, seed=12))
    model.up_weight.requires_grad_(False)


def _loaded(model: nn.Module) -> None:
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})


def _assigned(model: nn.Module) -> None:
    state = {name: value * 3 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


_CHANGES = (_scale, _part, _other_data, _other_tensor, _loaded, _assigned)


@pytest.mark.parametrize("hold", [_buffer, _passing, _parameter, _turned, _attribute])
def test_a_merged_weight_follows_what_it_is_made_of(hold: Any) -> None:
    model, x = Gated(hold), random(5, 16)
    with torch.no_grad(), watched() as graphs:
        function = torch.compile(model, backend="kunlun", options={"target": "cpu"})
        before = function(x)
        if hold is not _attribute:  # which is an input of the graph like any other
            assert fusions(graphs[0])["gate_up_merge"] == 1
        views = () if hold is _turned else (_through_a_view,)
        for change in (*_CHANGES, *views):
            change(model)
            expected = model(x)
            # Sums cancel: an entry's error is that of the terms, which are as large as the largest.
            most = 1e-6 * float(expected.abs().max())
            torch.testing.assert_close(
                function(x),
                expected,
                rtol=1e-6,
                atol=most,
                msg=lambda text: f"{text} {change}",  # noqa: B023
            )
            assert not torch.allclose(expected, before) or change in (_loaded, _assigned)
            before = expected


def test_tensors_of_a_closure() -> None:
    gate, up, x = random(24, 16), random(24, 16, seed=4), random(5, 16)

    def function(x: Tensor) -> Tensor:
        return F.silu(F.linear(x, gate)) * F.linear(x, up)

    fast = compiled(function, "cpu")
    for _ in range(3):
        torch.testing.assert_close(fast(x), function(x))
        gate.mul_(0.5)
        up[2:5].neg_()


def test_a_weight_in_other_memory_at_the_same_address() -> None:
    """A non-contiguous value is read from a copy; its own memory may be given to another."""
    model, x = nn.Linear(16, 24, bias=False).requires_grad_(False), random(5, 16)
    model.weight.data = random(16, 24).t()
    function = compiled(model, "cpu")
    for seed in range(4):
        torch.testing.assert_close(function(x), model(x))
        model.weight.data = torch.empty(0)
        model.weight.data = random(16, 24, seed=seed).t()


class Router(nn.Module):
    """Chooses 2 of 8 experts; ``use`` is what the program does with the ids."""

    def __init__(self, use: Callable[[Tensor], Any], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(random(8, 32).to(dtype), requires_grad=False)
        self.register_buffer("correction", random(8, seed=4))
        self.use = use

    def forward(self, x: Tensor) -> Any:
        scores = F.linear(x.float(), self.weight.float()).sigmoid()
        ids = (scores + self.correction).topk(2, -1, sorted=False)[1]
        weights = scores.gather(1, ids)
        return weights / weights.sum(-1, keepdim=True), self.use(ids)


def test_a_router_that_two_graphs_share_is_made_anew_for_both() -> None:
    """In float32 it is a copy of a weight of bfloat16."""
    router = Router(lambda ids: ids, torch.bfloat16)
    function = compiled(router, "cpu")
    prompt, token = random(5, 32).bfloat16(), random(1, 32).bfloat16()
    with torch.no_grad():
        for factor in (1.0, -0.5):
            router.weight.mul_(factor)
            for x in (prompt, token):
                torch.testing.assert_close(function(x), router(x))


# Memory that is written between two readers.


class Masked(nn.Module):
    """The mask, or a view of it, is written between two attentions."""

    def forward(self, q: Tensor, mask: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        first = F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
        mask[:, :, 1:].copy_(change)
        return first, F.scaled_dot_product_attention(q, q, q, attn_mask=mask)


class Seen(nn.Module):
    """A mask of the step itself is written, and read in two shapes."""

    def forward(self, q: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        mask = torch.arange(3)[None, :] < lengths[:, None]
        first = F.scaled_dot_product_attention(q, q, q, attn_mask=mask[:, None, None])
        mask.index_fill_(1, torch.tensor([1]), True)
        second = F.scaled_dot_product_attention(q, q, q, attn_mask=mask[:, None, None])
        third = F.scaled_dot_product_attention(q, q, q, attn_mask=mask[None, :, None, :])
        return first, second, third


class Rotated(nn.Module):
    """Rotates ``q``, again after ``change``, and again by other frequencies."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.register_buffer("inverse", 1 / 10000.0 ** (torch.arange(0, 32, 2) / 32))
        self.register_buffer("other", 1 / 500.0 ** (torch.arange(0, 32, 2) / 32))
        self.change = change

    def turn(self, q: Tensor, positions: Tensor, inverse: Tensor) -> Tensor:
        angles = positions[:, :, None].float() * inverse
        angles = torch.cat((angles, angles), -1)[:, None]
        return q * angles.cos() + torch.cat((-q[..., 16:], q[..., :16]), -1) * angles.sin()

    def forward(self, q: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        first = self.turn(q, positions, self.inverse)  # type: ignore[arg-type]
        self.change(positions)
        second = self.turn(q, positions, self.inverse)  # type: ignore[arg-type]
        return first, second, self.turn(q, positions, self.other)  # type: ignore[arg-type]


class Branching(Rotated):
    """Frequencies that differ beyond a limit which random ones stay within."""

    def turn(self, q: Tensor, positions: Tensor, inverse: Tensor) -> Tensor:
        limited = torch.where(inverse > 40, inverse / 8, inverse)
        return super().turn(q, positions, limited.clamp(max=60))


@torch.no_grad()
def test_a_branch_of_the_frequencies_that_no_probe_takes() -> None:
    module = Branching(lambda _: None)
    module.get_buffer("other")[:2] = torch.tensor((50.0, 1000.0))
    same(module, "cpu", random(1, 2, 3, 32), torch.arange(3)[None])


def same(module: nn.Module, target: str, *inputs: Tensor) -> None:
    """Two calls: values, dtypes, and the inputs as they are afterwards."""
    function = compiled(module, target)
    for _ in range(2):
        given, twins = ([one.clone() for one in inputs] for _ in range(2))
        torch.testing.assert_close(function(*given), module(*twins), equal_nan=True)
        torch.testing.assert_close(given, twins)


@TARGETS
@torch.no_grad()
def test_a_mask_that_is_written_between_two_attentions(target: str) -> None:
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()
    same(Masked(), target, random(1, 4, 3, 8), mask, torch.ones(1, 1, 2, 3, dtype=torch.bool))
    same(Seen(), target, random(2, 2, 3, 8), torch.tensor([1, 3]))


@TARGETS
@pytest.mark.parametrize("change", [lambda at: at.add_(3), lambda at: at.view(-1)[1:].mul_(2)])
@torch.no_grad()
def test_positions_that_are_written_between_two_rotations(target: str, change: Any) -> None:
    same(Rotated(change), target, random(2, 2, 3, 32), torch.tensor([[0, 1, 2], [4, 5, 6]]))


@TARGETS
@pytest.mark.parametrize("start", [-2, 202_751])
@torch.no_grad()
def test_positions_have_no_longest(target: str, start: int) -> None:
    model = Rotated(lambda at: None)
    with watched() as graphs:
        function = torch.compile(model, backend="kunlun", options={"target": target})
        for more in (0, 7):
            q, at = random(2, 2, 3, 32), torch.arange(3)[None] + start + more
            torch.testing.assert_close(function(q, at), model(q, at))
            model.inverse.mul_(0.75)  # type: ignore[operator, union-attr]
    assert fusions(graphs[0])["rope"] == 3


@TARGETS
@pytest.mark.parametrize("read", [torch.Tensor.int, lambda at: (at / 4).long()])
@torch.no_grad()
def test_positions_that_a_cast_rounds_or_narrows(target: str, read: Any) -> None:
    class Read(Rotated):
        def turn(self, q: Tensor, positions: Tensor, inverse: Tensor) -> Tensor:
            return super().turn(q, read(positions), inverse)

    same(Read(lambda at: None), target, random(1, 2, 3, 32), torch.tensor([[5, 6, 7]]))


# Ids of the program's own dtype, whoever reads them.


@TARGETS
@pytest.mark.parametrize(
    "use",
    [
        lambda ids: (ids, ids.t(), ids[:, :1] + 2**40, torch.arange(8.0)[ids] + ids),
        lambda ids: (F.one_hot(ids, 8).sum((0, 1)), ids.view(torch.int32)),
        lambda ids: ids.index_fill_(1, torch.tensor([0]), 3),
    ],
)
@torch.no_grad()
def test_ids_of_the_chosen_experts(target: str, use: Any) -> None:
    model, x = Router(use), random(5, 32)
    with watched() as graphs:
        found = torch.compile(model, backend="kunlun", options={"target": target})(x)
    torch.testing.assert_close(found, model(x))
    assert fusions(graphs[0])["moe_gate"] == 1
