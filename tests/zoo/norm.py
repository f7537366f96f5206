"""RMSNorm as people write it, and what looks like it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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
    def forward(self, x: Tensor) -> Tensor:
        return self.normed(x.float()).type_as(x) * self.weight


class RootFirst(RmsNorm):
    def normed(self, hidden: Tensor) -> Tensor:
        return torch.rsqrt(self.eps + self.mean(self.square(hidden))) * hidden


class LastByNumber(RmsNorm):
    def mean(self, squares: Tensor) -> Tensor:
        return squares.mean(squares.dim() - 1, keepdim=True)


class Unsqueezed(RmsNorm):
    def mean(self, squares: Tensor) -> Tensor:
        return squares.mean(-1).unsqueeze(-1)


class InPlace(RmsNorm):
    def normed(self, hidden: Tensor) -> Tensor:
        return hidden.mul(self.mean(self.square(hidden)).add_(self.eps).rsqrt_())


class TorchNorm(RmsNorm):
    """In float32 only: elsewhere it rounds once, and is a twist."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


# spelling -> where it comes from
SPELLINGS: dict[type[RmsNorm], str] = {
    RmsNorm: "transformers 4.57 to 5.23, every GLM class",
    TimesItself: "user rewrite: a product in place of the power",
    Square: "user rewrite: torch.square",
    WeightLast: "user rewrite: type_as, the weight on the right",
    RootFirst: "user rewrite: the root and eps on the left",
    LastByNumber: "user rewrite: the last dimension counted from 0",
    Unsqueezed: "user rewrite: a mean without keepdim, then unsqueeze",
    InPlace: "user rewrite: add_ and rsqrt_",
    TorchNorm: "user rewrite: torch's rms_norm, in float32",
}
FLOAT32_ONLY = (TorchNorm,)


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


class DividedByRoot(RmsNorm):
    """Equal on paper; the rounding is another one."""

    def normed(self, hidden: Tensor) -> Tensor:
        return hidden / torch.sqrt(self.mean(self.square(hidden)) + self.eps)


class PowerOfHalf(RmsNorm):
    """Equal on paper; the rounding is another one."""

    def normed(self, hidden: Tensor) -> Tensor:
        return hidden * (self.mean(self.square(hidden)) + self.eps).pow(-0.5)


class ScaledEps(RmsNorm):
    """Four times eps, by a keyword of the addition."""

    def normed(self, hidden: Tensor) -> Tensor:
        shifted = torch.add(self.mean(self.square(hidden)), self.eps, alpha=4)
        return hidden * torch.rsqrt(shifted)


class RoundedTwice(RmsNorm):
    """Through float16 on the way back."""

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * self.normed(x.float()).half().to(x.dtype)


_TORCH = "torch's rms_norm multiplies by the weight before it rounds, so it must be in float32"
_ROOT = "the root must be rsqrt: a square root and a quotient, or a power, round differently"

# All in bfloat16.
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
    DividedByRoot: _ROOT,
    PowerOfHalf: _ROOT,
    TorchNorm: _TORCH,
    ScaledEps: "argument 'alpha' = 4 of aten.add is not read by this pass",
    RoundedTwice: "argument 'dtype' = torch.float16 of aten._to_copy is not read by this pass",
}
