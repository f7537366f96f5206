"""Kernels broken on purpose, one way each, in one place of a model: what alignment must find.

A fault wraps the thunk of a call, whatever its target: it sees what the call is bound to and what
the call has left. Both replays run it, as a card would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glmc.check.align import two_replays
from glmc.ir.ops import moe
from glmc_runtime import kernels
from glmc_runtime.engine.loaded import LoadedArtifact, load_into_memory
from glmc_runtime.format.dependence import Symbols
from glmc_runtime.format.plan import Call
from glmc_runtime.kernels import Thunk, find_binder
from glmc_runtime.kernels.vendor import Vendor
from glmc_runtime.replay.bind import PhaseBinder

Arguments = dict[str, Any]
Break = Callable[[Call, Arguments, Thunk], Thunk]


@dataclass(frozen=True)
class Fault:
    """``node`` is the id of the node whose calls are wrong, ``phase`` the only one where they are.
    ``broken`` makes their thunks from the right ones; ``weight`` is one whose first and last rows
    are exchanged in memory. ``routed``: a model has it that has experts."""

    node: str
    broken: Break | None = None
    weight: str = ""
    phase: str = ""
    routed: bool = False

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Make every replay run it."""
        if self.weight:
            patch.setattr(two_replays, "load_into_memory", self._load)
        bind, broken = PhaseBinder._bind_call, self.broken
        if broken is None:
            return

        def wrapped(binder: PhaseBinder, position: int, symbols: Symbols) -> Thunk:
            thunk, call = bind(binder, position, symbols), binder.plan.calls[position]
            if call.node != self.node or self.phase not in ("", binder.plan.name):
                return thunk
            return broken(call, binder.arguments(position, symbols), thunk)

        patch.setattr(PhaseBinder, "_bind_call", wrapped)

    def _load(self, *given: Any) -> LoadedArtifact:
        loaded = load_into_memory(*given)
        tensor = loaded.weights[self.weight].clone()
        tensor[[0, -1]] = tensor[[-1, 0]]
        loaded.weights[self.weight] = tensor
        return loaded


def _narrow_sum(call: Call, arguments: Arguments, thunk: Thunk) -> Thunk:
    """A product that is added up in float16, term by term."""
    if not call.function.endswith(("linear", "matmul")):
        return thunk
    x, out = arguments["x"], arguments["out"]
    weight = arguments["w" if "w" in arguments else "weight"]

    def run() -> None:
        left, right = x.half(), weight.half().t()
        total = torch.zeros(out.shape, dtype=torch.float16)
        for term in range(left.shape[-1]):
            total += left[..., term : term + 1] * right[term]
        bias = arguments.get("bias")
        out.copy_(total.float() if bias is None else total.float() + bias.float())

    return run


def _eps_outside(call: Call, arguments: Arguments, thunk: Thunk) -> Thunk:
    """A norm that adds eps to the root and not to what is under it."""
    return _eps_outside_root(arguments) if call.function.endswith("norm") else thunk


def _eps_outside_root(arguments: Arguments) -> Thunk:
    x, weight, eps = arguments["x"], arguments["weight"], float(arguments["eps"])
    out = arguments["output" if "output" in arguments else "out"]

    def run() -> None:
        hidden = x.float()
        root = hidden.square().mean(-1, keepdim=True).sqrt()
        out.copy_(hidden / (root + eps) * weight.float())

    return run


def _scaled_twice(call: Call, arguments: Arguments, thunk: Thunk) -> Thunk:
    """An attention whose scores are scaled once more."""
    query = arguments.get("query", arguments.get("q", arguments.get("x")))
    if not call.function.endswith("attention") or query is None:
        return thunk

    def run() -> None:
        right = query.clone()
        query.mul_(query.shape[-1] ** -0.5)
        thunk()
        query.copy_(right)

    return run


def _narrow_router(call: Call, arguments: Arguments, thunk: Thunk) -> Thunk:
    """A router whose scores come from bfloat16 logits."""
    x, weight = arguments.get("x"), arguments.get("weight")
    if weight is None or x is None:
        return thunk

    def logits(x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x.bfloat16(), weight.bfloat16()).float()

    def alone() -> None:
        arguments["out"].copy_(logits(x, weight))

    def whole() -> None:
        names = ("groups", "top_groups", "group_fill", "normalize", "normalize_eps", "scale")
        ids = arguments["ids"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(moe, "gate_scores", lambda *given: logits(*given).sigmoid())
            constants = (ids.shape[1], *(arguments[name] for name in names))
            made = moe.moe_gate(x, weight, arguments["bias"], *constants)
        arguments["weights"].copy_(made[0])
        ids.copy_(made[1])

    return whole if "ids" in arguments else alone


def _bias_left_out(call: Call, arguments: Arguments, thunk: Thunk) -> Thunk:
    """A router that chooses by scores without the bias that corrects them."""
    bias = arguments.get("bias")
    if bias is None:
        return thunk

    def run() -> None:
        right = bias.clone()
        bias.zero_()
        thunk()
        bias.copy_(right)

    return run


def _slots_before(call: Call, arguments: Arguments, thunk: Thunk) -> Thunk:
    """Keys and values that are written one slot before their own."""
    return _shifted(arguments, thunk, ("slot_mapping",), least=0)


def _lengths_before(call: Call, arguments: Arguments, thunk: Thunk) -> Thunk:
    """A decode attention with the context lengths of the step before."""
    names = ("context_lengths", "context_lens_cpu", "context_lens_xpu")
    return _shifted(arguments, thunk, names, least=1)


def _shifted(arguments: Arguments, thunk: Thunk, names: tuple[str, ...], least: int) -> Thunk:
    """With some whole numbers less by one, as far as they may be; those of padding may not."""
    shifted = [arguments[name] for name in names if name in arguments]
    if not shifted:
        return thunk

    def run() -> None:
        right = [each.clone() for each in shifted]
        for each in shifted:
            each.sub_(1).clamp_(min=least)
        thunk()
        for each, kept in zip(shifted, right, strict=True):
            each.copy_(kept)

    return run


def eps_outside_everywhere(patch: pytest.MonkeyPatch) -> None:
    """Norms that add eps to the root, wherever they are called: in a test of the op as well."""
    find_binder("cpu.rms_norm")  # which registers it
    vendor_bind = Vendor.bind

    def from_vendor(vendor: Vendor, name: str, arguments: dict[str, Any]) -> Any:
        if name == "kunlun_ops.rmsnorm":
            return _eps_outside_root(arguments)
        return vendor_bind(vendor, name, arguments)

    patch.setitem(kernels._BINDERS, "cpu.rms_norm", _eps_outside_root)
    patch.setattr(Vendor, "bind", from_vendor)


_LAYER = "model.layers.1"
FAULTS = {
    "sum_in_float16": Fault("model.layers.0.mlp.down_proj#linear", _narrow_sum),
    "eps_outside_root": Fault("model.layers.0.input_layernorm#rsqrt", _eps_outside),
    "softmax_scale_twice": Fault(f"{_LAYER}.self_attn#scaled_dot_product_attention", _scaled_twice),
    "router_in_bfloat16": Fault(f"{_LAYER}.mlp.gate#gather", _narrow_router, routed=True),
    "router_without_bias": Fault(f"{_LAYER}.mlp.gate#gather", _bias_left_out, routed=True),
    "cache_slot_off_by_one": Fault(f"{_LAYER}.self_attn#neg", _slots_before),
    "lengths_of_the_step_before": Fault(
        f"{_LAYER}.self_attn#scaled_dot_product_attention", _lengths_before, phase="decode"
    ),
    "weight_rows_swapped": Fault(
        f"{_LAYER}.self_attn.o_proj#linear", weight=f"{_LAYER}.self_attn.o_proj.weight"
    ),
}
