"""References of the vendor functions, in plain torch and float64, written independently.

A probe fills a call's inputs, computes its expected outputs from copies of them, and judges what
the call left behind. Sources of the semantics: the public callers of the vendor's library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from glmc_runtime.doctor.bench import Bench
from glmc_runtime.doctor.hostile import fill_kind, fill_random
from glmc_runtime.kernels.vendor_functions import VENDOR_FUNCTIONS

Arguments = dict[str, Any]
Expected = dict[str, torch.Tensor]
Reference = Callable[[Bench, Arguments], Expected]

# Largest error allowed, relative to the largest expected value of an output.
BUDGET = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Outcome:
    """``error`` is relative to the largest expected value; ``problem`` is set on a failure."""

    error: float = 0.0
    budget: float = 0.0
    problem: str = ""


def compare(actual: torch.Tensor, expected: torch.Tensor, name: str) -> Outcome:
    """Error of one output; unwritten (poisoned) and non-finite values are failures."""
    result = actual.double().cpu().reshape(expected.shape)
    budget = BUDGET.get(actual.dtype, 0.0)
    if not bool(result.isfinite().all()):
        count = int((~result.isfinite()).sum())
        return Outcome(math.inf, budget, f"{name}: {count} values unwritten or not finite")
    largest = max(float(expected.abs().max()) if expected.numel() else 0.0, 1e-6)
    error = float((result - expected).abs().max()) / largest if expected.numel() else 0.0
    problem = f"{name}: relative error {error:.2g}" if error > budget else ""
    return Outcome(error, budget, problem)


def worst(outcomes: list[Outcome]) -> Outcome:
    """The failure, or else the largest error."""
    return max(outcomes, key=lambda outcome: (bool(outcome.problem), outcome.error))


class Probe:
    """How to check one function: ``hostile`` are filled with the kind, ``reference`` computes."""

    def __init__(self, hostile: tuple[str, ...], reference: Reference) -> None:
        self._hostile = hostile
        self._reference = reference

    def fill(self, bench: Bench, arguments: Arguments, kind: str) -> None:
        for name in self._hostile:
            if isinstance(arguments.get(name), torch.Tensor):
                fill_kind(arguments[name], kind, bench.generator)

    def expected(self, bench: Bench, arguments: Arguments) -> Expected:
        copies = {
            name: value.detach().clone().cpu() if isinstance(value, torch.Tensor) else value
            for name, value in arguments.items()
        }
        return self._reference(bench, copies)

    def judge(self, arguments: Arguments, expected: Expected) -> Outcome:
        return worst([compare(arguments[name], value, name) for name, value in expected.items()])


def _normalise(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.double()
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight.double()


def _rmsnorm(bench: Bench, arguments: Arguments) -> Expected:
    return {"output": _normalise(arguments["x"], arguments["weight"], arguments.get("eps", 1e-5))}


def _add_rmsnorm(bench: Bench, arguments: Arguments) -> Expected:
    total = arguments["x"].double() + arguments["y"].double()
    expected = {"output": _normalise(total, arguments["weight"], arguments.get("eps", 1e-5))}
    if arguments.get("residual_output") is not None:
        expected["residual_output"] = total
    return expected


def _swiglu(bench: Bench, arguments: Arguments) -> Expected:
    gate, up = arguments["x"].double().chunk(2, dim=-1)
    return {"y": gate * torch.sigmoid(gate) * up}


def _matmul(bench: Bench, arguments: Arguments) -> Expected:
    x, w = arguments["x"].double(), arguments["w"].double()
    product = (x.T if arguments.get("x_trans") else x) @ (
        w.T if arguments.get("w_trans", True) else w
    )
    product = product * arguments.get("alpha", 1)
    if arguments.get("bias") is not None:
        product = product + arguments["bias"].double()
    return {"out": product}


def _rotary_embedding(bench: Bench, arguments: Arguments) -> Expected:
    """The first ``rot`` of each head turn; neox pairs i with i + rot/2, else 2i with 2i + 1."""
    table = arguments["cos_sin_cache"].double()[arguments["positions"].long()]
    cosine, sine = (part.unsqueeze(1) for part in table.chunk(2, dim=-1))
    expected = {}
    for name in ("query", "key"):
        heads = arguments[name].double().reshape(len(table), -1, arguments["head_size"])
        rotated, rest = heads[..., : table.shape[1]], heads[..., table.shape[1] :]
        if arguments["is_neox"]:
            first, second = rotated.chunk(2, dim=-1)
        else:
            first, second = rotated[..., 0::2], rotated[..., 1::2]
        pair = (first * cosine - second * sine, second * cosine + first * sine)
        rotated = torch.cat(pair, -1) if arguments["is_neox"] else torch.stack(pair, -1).flatten(-2)
        expected[name] = torch.cat([rotated, rest], -1).reshape(arguments[name].shape)
    return expected


def _reshape_and_cache(bench: Bench, arguments: Arguments) -> Expected:
    """Everything but the written slots must stay; what lands in the scratch block is anyone's."""
    expected = {}
    tokens_first = arguments.get("BLHD_LAYOUT", False)
    for name in ("key", "value"):
        cache = arguments[f"{name}_cache"].double()
        size = cache.shape[1 if tokens_first else 2]
        for row, slot in enumerate(arguments["slot_mapping"][: len(arguments[name])].tolist()):
            block, offset = divmod(slot, size)
            target = cache[block, offset] if tokens_first else cache[block, :, offset]
            target.copy_(arguments[name][row].double())
        expected[f"{name}_cache"] = cache[1:]
    return expected


class _CacheWrite(Probe):
    def judge(self, arguments: Arguments, expected: Expected) -> Outcome:
        return super().judge({name: arguments[name][1:] for name in expected}, expected)


class _SigmoidRouter(Probe):
    """Ties may go to any of the tied experts, so ids are judged by the scores they chose."""

    def fill(self, bench: Bench, arguments: Arguments, kind: str) -> None:
        fill_kind(arguments["x"], kind, bench.generator, low=-30.0)
        if arguments.get("bias") is not None:
            fill_random(arguments["bias"], bench.generator, 0.1)
            if kind in ("ties", "all equal"):
                arguments["bias"].zero_()
        histogram = _histogram(arguments)
        if histogram is not None:
            histogram.zero_()

    def judge(self, arguments: Arguments, expected: Expected) -> Outcome:
        choice, scores = expected["choice"], expected["scores"]
        ids = arguments["topk_index"].long().cpu()
        top_k = ids.shape[1]
        ordered = ids.sort(-1).values
        if int(ids.min()) < 0 or int(ids.max()) >= choice.shape[1]:
            return Outcome(math.inf, 0.0, "topk_index: unwritten or out of range")
        if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
            return Outcome(math.inf, 0.0, "topk_index: an expert is chosen twice")
        outcomes = [
            compare(
                choice.gather(1, ids).sort(-1, descending=True).values.float(),
                choice.topk(top_k).values,
                "topk_index",
            )
        ]
        picked_scores = scores.gather(1, ids)
        weights = picked_scores / picked_scores.sum(-1, keepdim=True) * arguments["scale"]
        outcomes.append(compare(arguments["norm_score"], weights, "norm_score"))
        histogram = _histogram(arguments)
        if histogram is not None:
            counts = torch.bincount(ids.reshape(-1), minlength=choice.shape[1])
            if not torch.equal(histogram.sum(0).long().cpu(), counts):
                outcomes.append(Outcome(math.inf, 0.0, "histogram: other counts than topk_index"))
        return worst(outcomes)


class _ExpertCounts(Probe):
    """Which cluster counts which token is not public; only the sums over clusters are."""

    def fill(self, bench: Bench, arguments: Arguments, kind: str) -> None:
        experts = arguments["block_statistic"].shape[1] if kind == "random" else 1
        ids = torch.randint(0, experts, arguments["topk_ids"].shape, generator=bench.generator)
        arguments["topk_ids"].copy_(ids)
        arguments["block_statistic"].zero_()

    def judge(self, arguments: Arguments, expected: Expected) -> Outcome:
        counts = arguments["block_statistic"].sum(0).long().cpu()
        if torch.equal(counts, expected["block_statistic"]):
            return Outcome()
        return Outcome(math.inf, 0.0, "block_statistic: other counts than topk_ids")


def _expert_counts(bench: Bench, arguments: Arguments) -> Expected:
    experts = arguments["block_statistic"].shape[1]
    counts = torch.bincount(arguments["topk_ids"].long().reshape(-1), minlength=experts)
    return {"block_statistic": counts}


def _histogram(arguments: Arguments) -> torch.Tensor | None:
    return arguments.get("block_statistic", arguments.get("block_static"))


def _sigmoid_router(bench: Bench, arguments: Arguments) -> Expected:
    scores = torch.sigmoid(arguments["x"].double())
    choice = scores if arguments.get("bias") is None else scores + arguments["bias"].double()
    groups, top_groups = arguments["n_group"], arguments["topk_group"]
    if groups > 1:
        by_group = choice.view(len(choice), groups, -1)
        best = by_group.topk(2).values.sum(-1).topk(top_groups).indices
        mask = torch.ones(by_group.shape[:2], dtype=torch.bool).scatter_(1, best, False)
        choice = by_group.masked_fill(mask.unsqueeze(-1), -math.inf).view(choice.shape)
    return {"choice": choice, "scores": scores}


def _probe(name: str, reference: Reference, kind: type[Probe] = Probe) -> tuple[str, Probe]:
    """How to check a function of the table, which says what of it to fill."""
    return name, kind(VENDOR_FUNCTIONS[name].hostile, reference)


PROBES: dict[str, Probe] = dict(
    (
        _probe("rmsnorm", _rmsnorm),
        _probe("add_rmsnorm", _add_rmsnorm),
        _probe("swiglu", _swiglu),
        _probe("matmul", _matmul),
        _probe("rotary_embedding", _rotary_embedding),
        _probe("reshape_and_cache_flash", _reshape_and_cache, _CacheWrite),
        _probe("gen_block_statistic", _expert_counts, _ExpertCounts),
        _probe("moe_sigmoid_group_topk_norm", _sigmoid_router, _SigmoidRouter),
    )
)
