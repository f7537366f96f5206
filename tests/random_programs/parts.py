"""Parts of random programs: weights held in any way, norms, MLPs and experts in many spellings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

NORMS = ("usual", "product", "power", "alpha", "one more", "weight last", "layer", "tensor eps")
ACTIVATIONS = ("gate first", "up first", "halves", "halves turned", "gelu", "written", "read twice")
PRODUCTS = ("linear", "linear", "turned", "same order", "einsum", "view")
USES = ("nothing", "ids", "counts", "keys")


def norms() -> st.SearchStrategy[str]:
    return st.sampled_from(NORMS)


class Held(nn.Module):
    """A projection whose weight is a parameter, a buffer or an attribute."""

    def __init__(
        self, kind: str, inputs: int, outputs: int, bias: bool, product: str = "linear"
    ) -> None:
        super().__init__()
        self.product = product
        self._put("weight", torch.randn(outputs, inputs) * inputs**-0.5, kind)
        self.bias: Tensor | None = None
        if bias:
            del self.bias
            self._put("bias", torch.randn(outputs) / 2, kind)

    def _put(self, name: str, value: Tensor, kind: str) -> None:
        if kind == "parameter":
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))
        elif kind == "buffer":
            self.register_buffer(name, value)
        else:
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight  # type: ignore[assignment]
        weight, bias = weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        if self.product == "linear":
            return F.linear(x, weight, bias)
        if self.product == "einsum":
            out = torch.einsum("btd,od->bto", x, weight)
        elif self.product == "same order" and weight.shape[0] == weight.shape[1]:
            out = x @ weight.permute(0, 1)
        elif self.product == "view":
            out = (x.reshape(-1, x.shape[-1]) @ weight.t()).view(*x.shape[:-1], -1)
        else:
            out = x @ weight.transpose(0, 1)
        return out if bias is None else out + bias


class Norm(nn.Module):
    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(1 + torch.randn(width) / 4, requires_grad=False)
        self.register_buffer("eps", torch.tensor(0.01))

    def forward(self, x: Tensor) -> Tensor:
        kind, dtype = self.kind, x.dtype
        if kind == "layer":
            return F.layer_norm(x, x.shape[-1:], self.weight.to(dtype))
        wide = x.float()
        square = wide * wide if kind == "product" else wide.pow(2)
        mean = square.mean(-1, keepdim=True)
        if kind == "alpha":
            mean = torch.add(mean, 0.01, alpha=4)
        else:
            mean = mean + (self.eps if kind == "tensor eps" else 0.01)
        normed = wide * (mean**-0.5 if kind == "power" else torch.rsqrt(mean))
        if kind == "one more":
            return (normed * (1 + self.weight.float())).to(dtype)
        if kind == "weight last":
            return normed.to(dtype) * self.weight.to(dtype)
        return self.weight.to(dtype) * normed.to(dtype)


def norm_of(kind: str, width: int) -> Norm:
    return Norm(kind, width)


@dataclass(frozen=True)
class MlpSettings:
    activation: str
    product: str
    held: str
    bias: bool
    width: int


def mlps() -> st.SearchStrategy[MlpSettings]:
    return st.builds(
        MlpSettings,
        activation=st.sampled_from(ACTIVATIONS),
        product=st.sampled_from(PRODUCTS),
        held=st.sampled_from(["parameter", "parameter", "buffer", "attribute"]),
        bias=st.booleans(),
        width=st.sampled_from([10, 32, 48]),
    )


class Mlp(nn.Module):
    def __init__(self, settings: MlpSettings, hidden: int) -> None:
        super().__init__()
        self.settings = of = settings
        made = (of.bias, of.product)
        self.gate = Held(of.held, hidden, of.width, *made)
        self.up = Held(of.held, hidden, of.width, *made)
        self.both = Held(of.held, hidden, 2 * of.width, *made)
        self.down = Held("parameter", of.width, hidden, False)

    def forward(self, x: Tensor) -> Tensor:
        kind = self.settings.activation
        if kind.startswith("halves"):
            gate, up = self.both(x).chunk(2, -1)
            if kind == "halves turned":
                gate, up = up, gate
        else:
            gate, up = self.gate(x), self.up(x)
        if kind == "gelu":
            return self.down(F.gelu(gate) * up)  # type: ignore[no-any-return]
        if kind == "up first":
            return self.down(up * F.silu(gate))  # type: ignore[no-any-return]
        if kind == "written":
            gate = F.silu(gate)
            gate.mul_(up)
            return self.down(gate)  # type: ignore[no-any-return]
        acted = F.silu(gate) * up
        if kind == "read twice":
            return self.down(acted) + gate.mean(-1, keepdim=True)  # type: ignore[no-any-return]
        return self.down(acted)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class MoeSettings:
    experts: int
    top_k: int
    groups: int
    best: int
    fill: float
    within: bool
    correction: bool
    softmax: bool
    ordered: bool
    normalize: bool
    eps: float
    scale: float
    early: bool
    loop: bool
    shared: bool
    use: str
    width: int


def moes() -> st.SearchStrategy[MoeSettings]:
    return st.builds(
        MoeSettings,
        experts=st.sampled_from([4, 8]),
        top_k=st.sampled_from([1, 2, 3]),
        groups=st.sampled_from([1, 1, 2]),
        best=st.sampled_from([1, 2]),
        fill=st.sampled_from([0.0, -torch.inf]),
        within=st.sampled_from([False, False, False, True]),
        correction=st.sampled_from([True, True, False]),
        softmax=st.sampled_from([False, False, True]),
        ordered=st.sampled_from([False, False, True]),
        normalize=st.sampled_from([True, True, False]),
        eps=st.sampled_from([0.0, 1e-20, 0.25]),
        scale=st.sampled_from([1.0, 2.5]),
        early=st.sampled_from([False, False, True]),
        loop=st.booleans(),
        shared=st.booleans(),
        use=st.sampled_from(USES),
        width=st.sampled_from([8, 16]),
    )


class Moe(nn.Module):
    """Gate and experts, those of all tokens in a loop or gathered for each token."""

    def __init__(self, settings: MoeSettings, hidden: int) -> None:
        super().__init__()
        self.settings = of = settings
        self.gate = nn.Parameter(torch.randn(of.experts, hidden) / 4, requires_grad=False)
        self.register_buffer("correction", torch.randn(of.experts) / 4)
        both = torch.randn(of.experts, 2 * of.width, hidden) * hidden**-0.5
        down = torch.randn(of.experts, hidden, of.width) * of.width**-0.5
        self.both = nn.Parameter(both, requires_grad=False)
        self.down = nn.Parameter(down, requires_grad=False)
        self.shared = Mlp(MlpSettings("gate first", "linear", "parameter", False, 16), hidden)

    def _choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        of = self.settings
        logits = F.linear(x.float(), self.gate.float())
        scores = logits.softmax(-1) if of.softmax else logits.sigmoid()
        choice = scores + self.correction.float() if of.correction else scores  # type: ignore[operator]
        if of.within:  # the best of each of two groups, by numbers within the group
            ids = choice.view(-1, of.experts // 2).topk(1, -1, sorted=of.ordered)[1]
            ids = ids.view(-1, 2) + torch.tensor([0, of.experts // 2])
        else:
            if of.groups > 1:
                by_group = choice.view(-1, of.groups, of.experts // of.groups)
                best = by_group.topk(2, -1)[0].sum(-1).topk(of.best, -1, sorted=False)[1]
                kept = torch.zeros_like(by_group[..., 0]).scatter_(1, best, 1).bool()
                choice = by_group.masked_fill(~kept[..., None], of.fill).flatten(1)
            ids = choice.topk(of.top_k, -1, sorted=of.ordered)[1]
        weights = scores.gather(1, ids)
        if of.early:
            weights = weights * of.scale
        if of.normalize:
            weights = weights / (weights.sum(-1, keepdim=True) + of.eps)
        return (weights if of.early else weights * of.scale), ids

    def _experts(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        both, down = self.both.to(x.dtype), self.down.to(x.dtype)
        if self.settings.loop:
            out = torch.zeros_like(x)
            for expert in range(self.settings.experts):
                gate, up = F.linear(x, both[expert]).chunk(2, -1)
                share = (weights * (ids == expert)).sum(-1, keepdim=True).to(x.dtype)
                out = out + F.linear(F.silu(gate) * up, down[expert]) * share
            return out
        count = ids.shape[1]
        flat = ids.reshape(-1)
        rows = x[torch.arange(x.shape[0]).repeat_interleave(count)]
        gate, up = torch.bmm(both[flat], rows[:, :, None]).squeeze(-1).chunk(2, -1)
        result = torch.bmm(down[flat], (F.silu(gate) * up)[:, :, None]).squeeze(-1)
        weighed = result * weights.reshape(-1, 1)
        return weighed.view(-1, count, x.shape[-1]).sum(1).to(x.dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.reshape(-1, x.shape[-1])
        weights, ids = self._choose(flat)
        out = self._experts(flat, weights, ids).view(x.shape)
        if self.settings.shared:
            out = out + self.shared(x)
        # The order of what is chosen has no meaning where it was not asked for.
        ids = ids.sort(-1)[0]
        used = {
            "ids": ids,
            "counts": F.one_hot(ids, self.settings.experts).sum(0),
            "keys": ids + 2**40,
        }
        return out, used.get(self.settings.use, x[:, -1])
