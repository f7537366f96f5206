"""RMSNorm as people write it, and what looks like it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RmsNorm(nn.Module):
    """As every GLM class writes it."""

    eps = 1e-5

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(width))

    def square(self, hidden: Tensor) -> Tensor:
        return hidden.pow(2)

    def mean(self, squares: Tensor) -> Tensor:
        return squares.mean(-1, keepdim=True)

    def normed(self, hidden: Tensor) -> Tensor:
        return hidden * torch.rsqrt(self.mean(self.square(hidden)) + self.eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * self.normed(x.float()).to(x.dtype)


class TimesItself(RmsNorm):
    def square(self, hidden: Tensor) -> Tensor:
        return hidden * hidden


class Square(RmsNorm):
    def square(self, hidden: Tensor) -> Tensor:
        return torch.square(hidden)


class WeightLast(RmsNorm):
    eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.normed(x.float()).type_as(x) * self.weight


class RootFirst(RmsNorm):
    def normed(self, hidden: Tensor) -> Tensor:
        return torch.rsqrt(self.mean(self.square(hidden)) + self.eps) * hidden


class LastByNumber(RmsNorm):
    def mean(self, squares: Tensor) -> Tensor:
        return squares.mean(squares.dim() - 1, keepdim=True)


SPELLINGS = (RmsNorm, TimesItself, Square, WeightLast, RootFirst, LastByNumber)


class WeightBeforeCast(RmsNorm):
    """The weight multiplies in float32 and is rounded with it."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight.float() * self.normed(x.float())).to(x.dtype)


class LowPrecision(RmsNorm):
    def forward(self, x: Tensor) -> Tensor:
        return self.weight * self.normed(x)


class OverTokens(RmsNorm):
    def mean(self, squares: Tensor) -> Tensor:
        return squares.mean(0, keepdim=True)


class OverAll(RmsNorm):
    def mean(self, squares: Tensor) -> Tensor:
        return squares.mean((-2, -1), keepdim=True)


class Cube(RmsNorm):
    def square(self, hidden: Tensor) -> Tensor:
        return hidden.pow(3)


class ProductOfTwo(RmsNorm):
    def square(self, hidden: Tensor) -> Tensor:
        return hidden * hidden.abs()


class OtherValue(RmsNorm):
    def normed(self, hidden: Tensor) -> Tensor:
        return hidden.abs() * torch.rsqrt(self.mean(self.square(hidden)) + self.eps)


class LearnedEps(RmsNorm):
    def normed(self, hidden: Tensor) -> Tensor:
        return hidden * torch.rsqrt(self.mean(self.square(hidden)) + self.weight[0])


class ReadTwice(RmsNorm):
    """The normalised value has another reader."""

    def forward(self, x: Tensor) -> Tensor:
        normed = self.normed(x.float()).to(x.dtype)
        return self.weight * normed + normed


class NoWeight(RmsNorm):
    def forward(self, x: Tensor) -> Tensor:
        return self.normed(x.float()).to(x.dtype) * x


TWISTS: dict[type[RmsNorm], str] = {
    WeightBeforeCast: "the scale must be a model weight",
    LowPrecision: "the norm must be computed in float32",
    OverTokens: "the mean must be over the last dimension only",
    OverAll: "the mean must be over the last dimension only",
    Cube: "the exponent must be 2",
    ProductOfTwo: "the mean must be of a value times itself",
    OtherValue: "rsqrt must multiply the value that was squared",
    LearnedEps: "eps must be a number",
    ReadTwice: "expected one user but found 2",
    NoWeight: "the scale must be a model weight",
}
